// The page: a model, then recordings or speech, whose translation the worker makes.

import { decode } from "./recording.js";
import { openMicrophone } from "./microphone.js";

const $ = (selector) => document.querySelector(selector);
const audio = $("#audio");
let worker;
let source = null; // of the model: a File or an address
let model = null; // what the worker says of it
let close = null; // ends the microphone
let result = null;
let begun = 0;
let until = Infinity;
let soundAt = 0; // when the microphone was last not silent

function say(text) {
  if ($("#status").textContent !== text) $("#status").textContent = text;
}

function fail(message) {
  $("#error").textContent = message;
  say("");
}

function showProgress(done, all) {
  $("#progress").hidden = done === null;
  if (all) $("#progress").value = done / all;
  else $("#progress").removeAttribute("value");
}

function setBusy(busy) {
  $("#cancel").hidden = !busy;
  $("#model").inert = busy;
  for (const control of [$("#file"), $("#cutting"), $("#beam")]) control.disabled = busy;
  $("#speak").disabled = busy && !close;
  if (!busy) showProgress(null);
}

const answers = {
  progress({ done, all }) { showProgress(done, all); },
  loaded(about) {
    const { name, bytes, from, to } = (model = about);
    $("#about").textContent = `${name}, ${(bytes / 1e6).toFixed(1)} MB${to && `, ${from} → ${to}`}`;
    $("fieldset").disabled = false;
    setBusy(false);
    say(result?.cancelled ? "Cancelled." : "The model is ready: choose a recording, or speak.");
  },
  cut({ byLoudness }) {
    say(byLoudness ? "The model hears no speech in this recording; it is cut by loudness." : "Translating …");
  },
  segment({ type, ...segment }) {
    addSegment(segment);
    if (!result.live) showProgress(segment.end, result.seconds);
  },
  heard({ seconds }) {
    if (!close) return;
    const behind = 5 * Math.floor((result.heard - seconds) / 5); // every change is read aloud
    if (behind) say(`Listening. The translation is ${behind} s behind.`);
    else if (result.heard - soundAt > 3) say("Listening, but the microphone is silent: is it muted?");
    else say("Listening …");
  },
  done({ seconds, srt }) {
    result.srt = srt;
    setBusy(false);
    const { length } = result.segments;
    $("#downloads").hidden = !length;
    const took = ((performance.now() - begun) / 1000).toFixed(1);
    if (length) say(`Done: ${length} segments of ${seconds.toFixed(1)} s${result.live ? "" : `, in ${took} s`}.`);
    else fail("Nothing was heard in this recording: it is silent, or only noise. Options, Cut, “not at all” translates it all the same.");
  },
  error({ message, broken, loading }) {
    stopListening();
    if (loading) model = null; // it would fail again
    if (broken) restart();
    else setBusy(false);
    fail(message);
  },
};

function start() {
  worker?.terminate();
  worker = new Worker("worker.js", { type: "module" });
  worker.onmessage = ({ data }) => answers[data.type](data);
  worker.onerror = (event) => {
    event.preventDefault();
    answers.error({ message: `worker.js cannot run (${event.message ?? "it is missing"}): put all files of the page into one folder, and use a current browser.` });
  };
}

/** A worker that computes hears nothing: another one takes its place. */
function restart() {
  start();
  if (model) load(source);
  else setBusy(false);
}

function load(wanted) {
  source = wanted;
  $("#error").textContent = "";
  $("fieldset").disabled = true;
  setBusy(true);
  showProgress(0, 0);
  say("Loading the model …");
  worker.postMessage({ type: "load", source });
}

function loadAddress(address) {
  let url;
  try {
    url = new URL(address, location.href).href;
  } catch {
    fail(`${address} is no address: type one such as https://example.org/model.cress.`);
    return;
  }
  newModel(url);
}

function newModel(wanted) {
  model = null;
  result = null;
  $("#about").textContent = "";
  start(); // the memory of the one before is free then
  load(wanted);
}

function addSegment(segment) {
  result.segments.push(segment);
  const item = document.createElement("li");
  const time = document.createElement("button");
  time.type = "button";
  time.textContent = clock(segment.start);
  time.setAttribute("aria-label", `Hear from ${time.textContent}`);
  time.disabled = result.live;
  time.addEventListener("click", () => play(segment));
  const words = document.createElement("span");
  words.className = "words";
  words.lang = model.to;
  words.dir = "auto";
  words.textContent = segment.text;
  item.append(time, words);
  $("#segments").append(item);
}

function play(segment) {
  until = segment.end;
  audio.currentTime = segment.start;
  audio.play().catch(() => say("The browser cannot play this recording."));
}

function clock(seconds) {
  return `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;
}

function options() {
  const cutting = $("#cutting").value;
  const beam = Math.min(20, Math.max(1, Math.round($("#beam").valueAsNumber) || 5));
  return { segmenter: cutting === "energy" ? "energy" : "auto", whole: cutting === "whole", beam };
}

function begin(isLive) {
  result = { segments: [], srt: "", live: isLive, heard: 0, cancelled: false };
  begun = performance.now();
  $("#error").textContent = "";
  $("#segments").replaceChildren();
  $("#downloads").hidden = true;
  if (audio.src) URL.revokeObjectURL(audio.src);
  audio.removeAttribute("src");
  audio.hidden = isLive;
}

async function translateFile(file) {
  if (!file) return;
  begin(false);
  const mine = result;
  setBusy(true);
  audio.src = URL.createObjectURL(file);
  say("Reading the recording …");
  showProgress(0, 0);
  try {
    const recording = await decode(file);
    if (result !== mine || mine.cancelled) return;
    mine.seconds = recording.samples.length / recording.channels / recording.rate;
    say("Looking for pauses …");
    worker.postMessage({ type: "translate", ...recording, options: options() }, [recording.samples.buffer]);
  } catch (error) {
    setBusy(false);
    fail(error.message);
  }
}

function stopListening() {
  close?.();
  close = null;
  $("#speak").setAttribute("aria-pressed", "false");
  $("#speak").textContent = "Speak";
}

async function speak() {
  if (close) {
    stopListening();
    setBusy(true);
    say("Finishing …");
    worker.postMessage({ type: "stop" });
    return;
  }
  begin(true);
  const mine = result;
  setBusy(true);
  say("Waiting for the microphone …");
  try {
    let rate;
    const opened = await openMicrophone((samples) => {
      if (!close) return;
      mine.heard += samples.length / rate;
      if (samples.some((sample) => sample)) soundAt = mine.heard;
      worker.postMessage({ type: "hear", samples }, [samples.buffer]);
    }, () => close && speak());
    if (mine.cancelled) { opened.close(); return; }
    ({ rate, close } = opened);
    soundAt = 0;
    worker.postMessage({ type: "listen", rate, options: options() });
    $("#speak").disabled = false;
    $("#speak").setAttribute("aria-pressed", "true");
    $("#speak").textContent = "Stop";
    say("Listening …");
  } catch (error) {
    setBusy(false);
    fail(error.message);
  }
}

function cancel() {
  stopListening();
  if (result) result.cancelled = true;
  say("Cancelled.");
  restart();
}

function download(suffix) {
  const lines = result.segments.map(({ text }) => `${text}\n`).join("");
  const blob = new Blob([suffix === "srt" ? result.srt : lines], { type: "text/plain;charset=utf-8" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `translation${model.to && `.${model.to}`}.${suffix}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

audio.addEventListener("timeupdate", () => {
  if (audio.currentTime < until) return;
  until = Infinity;
  audio.pause();
});
$("#model-file").addEventListener("change", ({ target }) => target.files[0] && newModel(target.files[0]));
$("#model").addEventListener("submit", (event) => {
  event.preventDefault();
  const address = $("#model-url").value.trim();
  if (address) loadAddress(address);
  else fail("There is no address of a model: type one, or choose a file.");
});
$("#recording").addEventListener("submit", (event) => event.preventDefault());
$("#file").addEventListener("change", ({ target }) => translateFile(target.files[0]));
for (const chooser of [$("#file"), $("#model-file")])
  chooser.addEventListener("click", () => { chooser.value = ""; }); // the same one may come again
$("#speak").addEventListener("click", speak);
$("#cancel").addEventListener("click", cancel);
for (const button of document.querySelectorAll("[data-suffix]"))
  button.addEventListener("click", () => download(button.dataset.suffix));
for (const kind of ["dragover", "dragleave", "drop"])
  addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("over", kind === "dragover");
    const file = kind === "drop" && event.dataTransfer.files[0];
    if (!file || !$("#cancel").hidden) return;
    if (file.name.endsWith(".cress")) newModel(file);
    else if (model) translateFile(file);
    else fail("A model comes first: choose or drop a .cress file.");
  });

if (!document.documentElement.classList.contains("unusable")) {
  start();
  const address = new URLSearchParams(location.search).get("model");
  if (address) {
    $("#model-url").value = address;
    loadAddress(address);
  } else say("Choose a model to begin with.");
}
