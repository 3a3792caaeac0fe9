// The microphone as blocks of samples.

const RATE = 16000;
const REASONS = {
  NotAllowedError: "it is not allowed here: allow it next to the page's address",
  NotFoundError: "there is none: connect one, or choose a file",
  NotReadableError: "another program has it: end that, or choose a file",
};

/** Firefox alone has no context of another rate than the microphone's. */
function openContext(stream) {
  const context = new AudioContext({ sampleRate: RATE });
  try {
    return [context, context.createMediaStreamSource(stream)];
  } catch {
    context.close();
    const native = new AudioContext();
    return [native, native.createMediaStreamSource(stream)];
  }
}

/** -> the rate of the samples, and what ends them; onEnd: the microphone has gone. */
export async function openMicrophone(onSamples, onEnd) {
  if (!navigator.mediaDevices)
    throw new Error("The microphone cannot be used: browsers give it to pages of https and of localhost alone. Choose a file, or host the page with https.");
  const plain = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  const stream = await navigator.mediaDevices.getUserMedia({ audio: plain }).catch((error) => {
    throw new Error(`The microphone cannot be used: ${REASONS[error.name] ?? error.message}.`);
  });
  const [context, microphone] = openContext(stream);
  context.resume(); // Safari begins them asleep
  for (const track of stream.getTracks()) track.onended = onEnd;
  await context.audioWorklet.addModule("blocks.js");
  const node = new AudioWorkletNode(context, "blocks");
  node.port.onmessage = ({ data }) => onSamples(data);
  microphone.connect(node);
  const close = () => {
    stream.getTracks().forEach((track) => track.stop());
    context.close();
  };
  return { rate: context.sampleRate, close };
}
