// The engine: cress.wasm, its memory, and the calls of cress.h in JavaScript.

export class EngineError extends Error {}

const MESSAGE_BYTES = 512;
const decoder = new TextDecoder();

/** What the engine asks of its surroundings: hardly anything. */
function surroundings() {
  let upper = 0;
  const nothing = () => 0;
  const known = {
    getTempRet0: () => upper,
    setTempRet0: (value) => { upper = value; },
    proc_exit: (status) => { throw new EngineError(`the engine ended with status ${status}`); },
  };
  return new Proxy({}, { get: (_, name) => known[name] ?? nothing, has: () => true });
}

export class Engine {
  /** url: of cress.wasm.  No type is asked of the server: any that sends the bytes will do. */
  static async load(url) {
    const answer = await fetch(url).catch(() => null);
    if (!answer?.ok) throw new EngineError(`${url} is missing: put it next to the page, as "make -C native/page" does.`);
    const module = await WebAssembly.compile(await answer.arrayBuffer());
    const imports = {};
    for (const { module: name } of WebAssembly.Module.imports(module)) imports[name] ??= surroundings();
    const { exports } = await WebAssembly.instantiate(module, imports);
    exports._initialize();
    return new Engine(exports);
  }

  constructor(calls) {
    this.calls = calls;
    this.message = this.take(MESSAGE_BYTES);
  }

  take(bytes) {
    const address = this.calls.malloc(bytes);
    if (!address) throw new EngineError(`there is no memory for ${(bytes / 1e6).toFixed(0)} MB: close other tabs, or use a smaller model or recording.`);
    return address >>> 0;
  }

  // The memory moves when it grows, so that no view of it is kept.
  bytes(address, count) { return new Uint8Array(this.calls.memory.buffer, address, count); }

  text(address) {
    if (!address) return "";
    const all = new Uint8Array(this.calls.memory.buffer, address >>> 0);
    return decoder.decode(all.subarray(0, all.indexOf(0)).slice());
  }

  /** An array, to be freed; its address. */
  put(array) {
    const address = this.take(array.byteLength + 4);
    this.bytes(address, array.byteLength).set(new Uint8Array(array.buffer, array.byteOffset, array.byteLength));
    return address;
  }

  putText(text) { return this.put(new TextEncoder().encode(`${text}\0`)); }

  /** Calls with the address of a pointer that the engine fills; the pointer, or an error of its words. */
  fill(name, ...values) {
    const place = this.take(4);
    const failed = this.calls[name](...values, place, this.message, MESSAGE_BYTES);
    const pointer = new DataView(this.calls.memory.buffer).getUint32(place, true);
    this.calls.free(place);
    if (failed) throw new EngineError(this.text(this.message));
    return pointer;
  }

  /** Frees samples of several channels; the address of their mixture. */
  mix(address, frames, channels, rate) {
    try {
      return this.fill("cress_mix", address, frames, channels, rate);
    } finally {
      this.calls.free(address);
    }
  }

  /** Pieces of a file, of which `expected` bytes are to come (0: nobody knows), into memory. */
  async receive(read, expected, onProgress) {
    let room = expected || 1 << 20;
    let address = this.take(room);
    let count = 0;
    for (let piece; !(piece = await read()).done; onProgress(count)) {
      if (count + piece.value.length > room) {
        room = Math.ceil(1.5 * (count + piece.value.length));
        const moved = this.calls.realloc(address, room);
        if (!moved) throw new EngineError("there is no memory for the model: close other tabs, or use a smaller one.");
        address = moved >>> 0;
      }
      this.bytes(address + count, piece.value.length).set(piece.value);
      count += piece.value.length;
    }
    return { address, count };
  }

  openModel({ address, count }) { return this.fill("cress_model_from_memory", address, count); }

  openTranslator(model, { segmenter = "auto", whole = false, beam = 5, maxLength = 200, noRepeat = 0 }) {
    const name = this.putText(segmenter);
    const made = this.calls.page_translator(model, name, Number(whole), beam, maxLength, noRepeat, this.message, MESSAGE_BYTES);
    this.calls.free(name);
    if (!made) throw new EngineError(this.text(this.message));
    return new Translator(this, made);
  }
}

class Translator {
  constructor(engine, address) {
    this.engine = engine;
    this.address = address;
  }

  call(name, ...values) {
    const result = this.engine.calls[`cress_${name}`](this.address, ...values);
    if (result < 0) throw this.error();
    return result;
  }

  error() { return new EngineError(this.engine.text(this.engine.calls.cress_error(this.address))); }

  begin(rate) { this.call("begin", rate); }

  /** Samples, or of several channels (frame after frame) what the engine makes of them; in pieces of
   * so many frames, with a call between them. */
  feed(samples, channels = 1, rate = 0, piece = Infinity, between = () => {}) {
    const place = this.engine.put(samples);
    const frames = samples.length / channels;
    const mixed = channels > 1 ? this.engine.mix(place, frames, channels, rate) : place;
    try {
      for (let first = 0; first < frames; first += piece) {
        if (first) between();
        this.call("feed", mixed + 4 * first, Math.min(piece, frames - first));
      }
    } finally {
      this.engine.calls.free(mixed);
    }
  }

  close() { this.engine.calls.cress_translator_free(this.address); }
  settle() { return this.call("settle"); }
  finish() { this.call("finish"); }

  get seconds() { return this.engine.calls.cress_seconds(this.address); }
  get segments() { return this.engine.calls.cress_segments(this.address); }
  get cutByLoudness() { return this.engine.calls.cress_cut_by_loudness(this.address) === 1; }

  /** The next segment, translated; null: there is none now. */
  next() {
    if (!this.call("next")) return null;
    const { calls } = this.engine;
    const text = this.engine.text(calls.cress_text(this.address, 0));
    return { text, start: calls.cress_start(this.address), end: calls.cress_end(this.address) };
  }

  subtitles(format) {
    const name = this.engine.putText(format);
    const text = this.engine.calls.cress_subtitles(this.address, name);
    this.engine.calls.free(name);
    if (!text) throw this.error();
    return this.engine.text(text);
  }
}
