// The page: what is chosen, dropped or said goes to one or two models.

import { Column } from "/page/column.js";
import { compare } from "/page/differences.js";
import { openMicrophone, RATE, toWav } from "/page/microphone.js";
import { listModels, openLive, translate, useToken } from "/page/server.js";
import * as waveform from "/page/waveform.js";

const $ = (selector) => document.querySelector(selector);
const audio = $("#audio");
const choices = [$("#model-0"), $("#model-1")];
let models = [];
let running = null; // what Cancel ends
let live = null; // what Stop ends
let until = Infinity;

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
  for (const button of document.querySelectorAll("[data-segment]"))
    button.classList.toggle("playing", Number(button.dataset.segment) === segment.id);
}

audio.addEventListener("timeupdate", () => {
  if (audio.currentTime < until) return;
  until = Infinity;
  audio.pause();
});

function begin(wanted) {
  $("#error").textContent = "";
  waveform.clearMarks();
  const columns = wanted.map((model) => new Column(model, play, fail));
  $("#results").replaceChildren(...columns.map((column) => column.element));
  $("#sound").hidden = false;
  return columns;
}

function showDifferences(columns) {
  if (columns.length < 2 || columns[0].model.language !== columns[1].model.language) return;
  compare(columns[0].text, columns[1].text).forEach((words, number) => columns[number].show(words));
}

function setSound(file) {
  if (audio.src) URL.revokeObjectURL(audio.src);
  audio.src = URL.createObjectURL(file);
}

async function translateFile(file) {
  if (!file || !models.length) return;
  stopAll();
  running = new AbortController();
  const { signal } = running;
  const columns = begin(chosen());
  setSound(file);
  $("#cancel").hidden = false;
  say("Translating …");
  const decoded = waveform.decode(file).catch(() => new Float32Array(0));
  decoded.then(waveform.draw);
  let length = 0;
  const ends = await Promise.allSettled(columns.map(async (column) => {
    for await (const event of translate(file, column.model.id, signal)) {
      if (event.type === "transcript.text.segment") column.add(event);
      else length = event.duration;
    }
    column.finish(file);
  }));
  if (signal.aborted) return;
  $("#cancel").hidden = true;
  const failed = ends.find((end) => end.status === "rejected");
  if (failed) fail(failed.reason);
  for (const segment of columns[0].segments) waveform.mark(segment, length || audio.duration, () => play(segment));
  showDifferences(columns);
  say(failed ? "" : `Done: ${columns[0].segments.length} segments.`);
}

async function speak() {
  if (live) { live(); return; }
  stopAll();
  const columns = begin(chosen());
  const blocks = [];
  let waiting = columns.length;
  const file = () => toWav(blocks);
  const sockets = columns.map((column) => openLive(column.model.id, (message) => {
    if (message.type === "partial") column.partial(message.text, message.stable);
    else if (message.type === "final") column.add(message);
    else if (message.type === "error") { fail(message.error); live?.(); }
    if (message.type !== "done" && message.type !== "error") return;
    column.finish(file());
    if (--waiting) return;
    const seconds = blocks.reduce((sum, block) => sum + block.length, 0) / RATE;
    setSound(file());
    for (const segment of columns[0].segments) waveform.mark(segment, seconds, () => play(segment));
    showDifferences(columns);
    say("Done.");
  }));
  let close;
  live = () => {
    live = null;
    $("#speak").setAttribute("aria-pressed", "false");
    $("#speak").textContent = "Speak";
    say("Finishing …");
    close?.();
    sockets.forEach((socket) => socket.stop());
  };
  try {
    close = await openMicrophone((samples) => {
      if (!live) return;
      blocks.push(samples);
      sockets.forEach((socket) => socket.send(samples.buffer));
      const last = blocks.slice(-100).flatMap((block) => Array.from(block));
      waveform.draw(Float32Array.from(last, (sample) => sample / 32768));
      if (sockets.some((socket) => socket.behind() > 20 * RATE)) say("The server is behind.");
    });
    $("#speak").setAttribute("aria-pressed", "true");
    $("#speak").textContent = "Stop";
    say("Listening …");
  } catch (error) {
    live?.();
    fail(new Error(`The microphone cannot be used: ${error.message}`));
  }
}

function stopAll() {
  running?.abort();
  live?.();
  $("#cancel").hidden = true;
}

$("#file").addEventListener("change", ({ target }) => translateFile(target.files[0]).catch(fail));
$("#speak").addEventListener("click", () => speak().catch(fail));
$("#cancel").addEventListener("click", () => { stopAll(); say("Cancelled."); });
$("#controls").addEventListener("submit", (event) => event.preventDefault());
$("#use-token").addEventListener("click", () => {
  useToken($("#token").value);
  loadModels().catch(fail);
});
for (const kind of ["dragover", "dragleave", "drop"])
  addEventListener(kind, (event) => {
    event.preventDefault();
    $("#drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") translateFile(event.dataTransfer.files[0]).catch(fail);
  });
loadModels().catch(fail);
