// The microphone as 16 kHz PCM, in blocks of 0.1 s.

export const RATE = 16000;

/**
 * Hear until `signal` aborts, which may be while the user is still asked for permission.
 * `onOpen` is called when the microphone hears, `onSamples` with each block, an Int16Array.
 */
export async function openMicrophone(signal, onOpen, onSamples) {
  if (!navigator.mediaDevices) throw new Error("the browser gives the microphone to https and localhost alone");
  const stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
  const context = new AudioContext();
  const close = () => {
    stream.getTracks().forEach((track) => track.stop());
    context.close();
  };
  signal.addEventListener("abort", close);
  if (signal.aborted) { close(); return; }
  try {
    await context.audioWorklet.addModule("/page/pcm.js");
  } catch (error) {
    if (signal.aborted) return; // the context was closed before
    throw error;
  }
  if (signal.aborted) return;
  const node = new AudioWorkletNode(context, "pcm", { processorOptions: { rate: RATE } });
  node.port.onmessage = ({ data }) => signal.aborted || onSamples(data);
  context.createMediaStreamSource(stream).connect(node);
  onOpen();
}

/** Blocks as one wave, from -1 to 1. */
export function toWave(blocks) {
  const wave = new Float32Array(blocks.reduce((sum, block) => sum + block.length, 0));
  let at = 0;
  for (const block of blocks) for (const sample of block) wave[at++] = sample / 32768;
  return wave;
}

/** Blocks as a WAV file. */
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
