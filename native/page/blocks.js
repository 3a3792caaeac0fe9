// In the audio thread: samples in blocks of 0.1 s.

class Blocks extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Float32Array(Math.round(sampleRate / 10));
    this.filled = 0;
  }

  process([[samples]]) {
    for (const sample of samples ?? []) {
      this.block[this.filled++] = sample;
      if (this.filled < this.block.length) continue;
      const full = this.block.slice();
      this.port.postMessage(full, [full.buffer]);
      this.filled = 0;
    }
    return true;
  }
}

registerProcessor("blocks", Blocks);
