// The page: what is chosen, dropped or said goes to one or two models.

import { Column } from "/page/column.js";
import { compare } from "/page/differences.js";
import { openMicrophone, RATE, toWav, toWave } from "/page/microphone.js";
import { listModels, openLive, translate, useToken } from "/page/server.js";
import * as waveform from "/page/waveform.js";

const RECENT = 100; // blocks of 0.1 s that are drawn while one speaks
const BEHIND = 2 * 10 * RATE; // bytes: 10 s that the server has not taken yet
const $ = (selector) => document.querySelector(selector);
const audio = $("#audio");
const choices = [$("#model-0"), $("#model-1")];
let models = [];
let run = new AbortController(); // of what the page shows: the next one aborts it
let stopSpeaking = null; // while the microphone is open, or asked for
let until = Infinity; // seconds at which the sound pauses

function say(text) { $("#status").textContent = text; }

function fail(error) {
  if (error.name === "AbortError") return;
  $("#error").textContent = error.message;
  if (error.status === 401) $("#access").open = true;
}

async function loadModels() {
  models = await listModels();
  choices.forEach((choice, number) => {
    const options = models.map((model) => new Option(`${model.id} (${model.language})`, model.id));
    if (number) options.unshift(new Option("no other", ""));
    choice.replaceChildren(...options);
  });
  const second = models.slice(1).find((model) => model.language === models[0].language);
  if (second) choices[1].value = second.id;
  $("#error").textContent = "";
}

function chosen() {
  const names = [...new Set(choices.map((choice) => choice.value).filter(Boolean))];
  return names.map((name) => models.find((model) => model.id === name));
}

function play(segment) {
  until = segment.end;
  audio.currentTime = segment.start;
  audio.play().catch(() => say("The browser cannot play this recording."));
  // By time: two models may cut the recording in different places.
  for (const button of document.querySelectorAll("[data-start]"))
    button.classList.toggle("playing", button.dataset.start < segment.end && button.dataset.end > segment.start);
}

audio.addEventListener("timeupdate", () => {
  if (audio.currentTime < until) return;
  until = Infinity;
  audio.pause();
});

/** Empty columns for the next recording; what still comes of the one before is dropped. */
function begin() {
  run.abort();
  run = new AbortController();
  $("#error").textContent = "";
  $("#cancel").hidden = true;
  waveform.clear();
  const columns = chosen().map((model) => new Column(model, play, fail));
  $("#results").replaceChildren(...columns.map((column) => column.element));
  $("#sound").hidden = false;
  return { columns, signal: run.signal };
}

function setSound(file) {
  if (audio.src) URL.revokeObjectURL(audio.src);
  audio.src = URL.createObjectURL(file);
}

/** What there is to see when all columns have ended, as Promise.allSettled says. */
function showEnd(columns, ends, seconds) {
  for (const segment of columns[0].segments) waveform.mark(segment, seconds, () => play(segment));
  const [one, other] = columns;
  if (other && one.model.language === other.model.language)
    compare(one.text, other.text).forEach((words, number) => columns[number].show(words));
  const failed = ends.find(({ status }) => status === "rejected");
  if (failed) fail(failed.reason);
  say(failed ? "" : `Done: ${one.segments.length} segments.`);
}

async function translateFile(file) {
  if (!file || !models.length) return;
  const { columns, signal } = begin();
  setSound(file);
  $("#cancel").hidden = false;
  say("Translating …");
  // Not every browser reads every format that the server does.
  waveform.decode(file).then((wave) => signal.aborted || waveform.draw(wave), () => {});
  let seconds = 0;
  const ends = await Promise.allSettled(columns.map(async (column) => {
    for await (const event of translate(file, column.model.id, signal)) {
      if (event.type === "transcript.text.segment") column.add(event);
      else seconds = event.duration;
    }
    column.finish(file);
  }));
  if (signal.aborted) return;
  $("#cancel").hidden = true;
  showEnd(columns, ends, seconds || audio.duration);
}

async function speak() {
  const { columns, signal } = begin();
  const blocks = [];
  const connections = columns.map((column) => openLive(column.model.id, signal, (message) => {
    if (message.type === "partial") column.partial(message.text, message.stable);
    else if (message.type === "final") column.add(message);
  }));
  const microphone = new AbortController();
  stopSpeaking = () => microphone.abort();
  signal.addEventListener("abort", stopSpeaking);
  microphone.signal.addEventListener("abort", () => {
    stopSpeaking = null;
    showSpeaking(false);
    say("Finishing …");
    for (const column of columns) column.restart();
    for (const connection of connections) connection.stop();
  });
  showSpeaking(true);
  openMicrophone(microphone.signal, () => say("Listening …"), (samples) => {
    blocks.push(samples);
    waveform.draw(toWave(blocks.slice(-RECENT)));
    for (const connection of connections) connection.send(samples);
    if (connections.some((connection) => connection.unsent() > BEHIND)) say("The server is behind.");
  }).catch((error) => {
    if (signal.aborted) return;
    run.abort();
    say("");
    fail(new Error(`The microphone cannot be used: ${error.message}`));
  });
  const ends = await Promise.allSettled(connections.map((one) => one.done.finally(() => microphone.abort())));
  if (signal.aborted) return;
  const file = toWav(blocks);
  setSound(file);
  ends.forEach(({ status }, number) => status === "fulfilled" && columns[number].finish(file, " after the end"));
  showEnd(columns, ends, blocks.reduce((sum, block) => sum + block.length, 0) / RATE);
}

function showSpeaking(on) {
  $("#speak").classList.toggle("on", on);
  $("#speak").textContent = on ? "Stop" : "Speak";
  if (on) say("Waiting for the microphone …");
}

$("#file").addEventListener("click", ({ target }) => { target.value = ""; }); // the same file is another change
$("#file").addEventListener("change", ({ target }) => translateFile(target.files[0]).catch(fail));
$("#speak").addEventListener("click", () => {
  if (stopSpeaking) stopSpeaking();
  else if (models.length) speak().catch(fail);
});
$("#cancel").addEventListener("click", () => {
  run.abort();
  $("#cancel").hidden = true;
  say("Cancelled.");
});
$("#controls").addEventListener("submit", (event) => {
  event.preventDefault();
  useToken($("#token").value);
  loadModels().catch(fail);
});
for (const kind of ["dragover", "dragleave", "drop"])
  addEventListener(kind, (event) => {
    event.preventDefault();
    $("#drop").classList.toggle("over", kind === "dragover");
    if (kind !== "drop" || !event.dataTransfer.files.length) return;
    $("#file").files = event.dataTransfer.files; // whose name is shown
    translateFile(event.dataTransfer.files[0]).catch(fail);
  });
loadModels().catch(fail);
