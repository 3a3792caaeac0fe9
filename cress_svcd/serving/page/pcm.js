// In the audio thread: to 16 kHz by averaging, to 16 bits, in blocks of 0.1 s.

class Pcm extends AudioWorkletProcessor {
  constructor({ processorOptions }) {
    super();
    this.step = sampleRate / processorOptions.rate;
    this.block = new Int16Array(processorOptions.rate / 10);
    this.filled = this.sum = this.count = this.position = 0;
  }

  process([[samples]]) {
    for (const sample of samples ?? []) {
      this.sum += sample;
      this.count += 1;
      this.position += 1;
      while (this.position >= this.step) {
        this.position -= this.step;
        const mean = this.count ? this.sum / this.count : sample;
        this.block[this.filled++] = Math.max(-1, Math.min(1, mean)) * 32767;
        this.sum = this.count = 0;
        if (this.filled === this.block.length) {
          this.port.postMessage(this.block.slice());
          this.filled = 0;
        }
      }
    }
    return true;
  }
}

registerProcessor("pcm", Pcm);
