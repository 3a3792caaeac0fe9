// The waveform, and a button for each segment over it.

const canvas = document.querySelector("#waveform canvas");
const marks = document.querySelector("#marks");
let samples = new Float32Array(0);

export async function decode(file) {
  const context = new OfflineAudioContext(1, 1, 16000);
  return (await context.decodeAudioData(await file.arrayBuffer())).getChannelData(0);
}

export function draw(wave) {
  samples = wave;
  const scale = devicePixelRatio || 1;
  const width = (canvas.width = Math.max(1, canvas.clientWidth * scale));
  const height = (canvas.height = Math.max(1, canvas.clientHeight * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = getComputedStyle(canvas).color;
  for (let x = 0; x < width; x++) {
    let peak = 0;
    const end = ((x + 1) * wave.length) / width;
    for (let i = Math.floor((x * wave.length) / width); i < end; i++) peak = Math.max(peak, Math.abs(wave[i]));
    context.fillRect(x, (height * (1 - peak)) / 2, 1, Math.max(1, height * peak));
  }
}

export function clear() {
  marks.replaceChildren();
  draw(new Float32Array(0));
}

export function mark(segment, seconds, onPress) {
  const button = document.createElement("button");
  button.type = "button";
  Object.assign(button.dataset, { start: segment.start, end: segment.end });
  button.style.left = `${(100 * segment.start) / seconds}%`;
  button.style.width = `${(100 * (segment.end - segment.start)) / seconds}%`;
  button.setAttribute("aria-label", `Hear segment ${segment.id + 1}: ${segment.text}`);
  button.addEventListener("click", onPress);
  marks.append(button);
}

new ResizeObserver(() => draw(samples)).observe(canvas);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw(samples));
