// Translates next to the page, which stays alive.  Messages in: load, translate, listen, hear, stop.
// Messages out: progress, loaded, cut, segment, heard, done, error.

import { Engine, EngineError } from "./engine.js";
import { describe, nameOf, openSource } from "./model_file.js";

const LOOK_SECONDS = 1; // of new sound, before live audio is cut again
const PIECE_SECONDS = 60; // that a model which has learnt to cut hears before the first words come
let engine;
let model; // its address
let hasSegmenter = false;
let live = null;

function tell(type, fields = {}) { postMessage({ type, ...fields }); }

async function load({ source }) {
  const name = nameOf(source);
  engine ??= await Engine.load(new URL("cress.wasm", import.meta.url));
  const { stream, size } = await openSource(source);
  let told = 0;
  const pieces = stream.getReader();
  const read = () => pieces.read().catch(() => {
    throw new EngineError(`${name} could not be read to its end: load it again.`);
  });
  const file = await engine.receive(read, size, (count) => {
    if (count - told < 1 << 20) return;
    told = count;
    tell("progress", { done: count, all: size });
  });
  const about = describe(engine.bytes(file.address, file.count), name);
  try {
    model = engine.openModel(file);
  } catch (error) {
    if (!(error instanceof EngineError)) throw error;
    throw new EngineError(`${name} is damaged or of another version (${error.message}): load it again, or export it again.`);
  }
  hasSegmenter = about.hasSegmenter;
  tell("loaded", { name, bytes: file.count, ...about });
}

/** Translates what is cut so far. */
function translateCut(translator) {
  for (let segment; (segment = translator.next());) tell("segment", segment);
}

function finish(translator) {
  translator.finish();
  tell("cut", { byLoudness: translator.cutByLoudness });
  translateCut(translator);
  tell("done", { seconds: translator.seconds, srt: translator.subtitles("srt") });
}

function translate({ samples, channels, rate, options }) {
  const translator = engine.openTranslator(model, options);
  try {
    translator.begin(rate);
    const inPieces = hasSegmenter && options.segmenter === "auto" && !options.whole;
    translator.feed(samples, channels, rate, inPieces ? PIECE_SECONDS * rate : Infinity, () => {
      if (translator.settle()) tell("cut");
      translateCut(translator);
    });
    finish(translator);
  } finally {
    translator.close();
  }
}

function listen({ rate, options }) {
  // By loudness: a model that has learnt to cut would hear the same seconds again and again.
  const translator = engine.openTranslator(model, { ...options, segmenter: "energy" });
  translator.begin(rate);
  live = { translator, rate, whole: options.whole, fresh: 0 };
}

function hear({ samples }) {
  if (!live) return;
  live.translator.feed(samples);
  live.fresh += samples.length;
  if (live.whole || live.fresh < LOOK_SECONDS * live.rate) return;
  live.fresh = 0;
  if (live.translator.settle()) translateCut(live.translator);
  tell("heard", { seconds: live.translator.seconds });
}

function stop() {
  const { translator } = live;
  live = null;
  try {
    finish(translator);
  } finally {
    translator.close();
  }
}

const answers = { load, translate, listen, hear, stop };

onmessage = async ({ data }) => {
  try {
    await answers[data.type](data);
  } catch (error) {
    live?.translator.close();
    live = null;
    // Not an error of the engine's own: it has stopped somewhere, and must not go on.
    const broken = !(error instanceof EngineError);
    const message = broken
      ? `The translator has stopped (${error.message}): memory may be short; close other tabs, or cut the recording.`
      : error.message;
    tell("error", { message, broken, loading: data.type === "load" });
  }
};
