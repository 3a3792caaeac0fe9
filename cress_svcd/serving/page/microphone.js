// The microphone as 16 kHz PCM.

export const RATE = 16000;

export async function openMicrophone(onSamples) {
  if (!navigator.mediaDevices) throw new Error("the browser gives the microphone to https and localhost alone");
  const stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
  const context = new AudioContext();
  await context.audioWorklet.addModule("/page/pcm.js");
  const node = new AudioWorkletNode(context, "pcm", { processorOptions: { rate: RATE } });
  node.port.onmessage = ({ data }) => onSamples(data);
  context.createMediaStreamSource(stream).connect(node);
  return () => {
    stream.getTracks().forEach((track) => track.stop());
    return context.close();
  };
}

/** A WAV file of blocks of samples. */
export function toWav(blocks) {
  const size = blocks.reduce((sum, block) => sum + block.byteLength, 0);
  const view = new DataView(new ArrayBuffer(44));
  const text = (at, letters) => [...letters].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  text(0, "RIFF"); view.setUint32(4, 36 + size, true); text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, RATE, true); view.setUint32(28, 2 * RATE, true);
  view.setUint16(32, 2, true); view.setUint16(34, 16, true);
  text(36, "data"); view.setUint32(40, size, true);
  return new Blob([view, ...blocks], { type: "audio/wav" });
}
