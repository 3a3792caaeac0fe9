// What one model says of the recording.

import { translateAs } from "/page/server.js";

const template = document.querySelector("#column");

export class Column {
  constructor(model, play, onError) {
    this.model = model;
    this.segments = [];
    this.element = template.content.cloneNode(true).firstElementChild;
    this.element.querySelector("h2").textContent = `${model.id} (${model.source_language} → ${model.language})`;
    this.list = this.element.querySelector(".segments");
    this.play = play;
    this.facts("");
    this.restart();
    for (const button of this.element.querySelectorAll("[data-format]"))
      button.addEventListener("click", () => this.download(button).catch(onError));
  }

  get text() {
    return this.segments.map((segment) => segment.text).join(" ");
  }

  facts(more) {
    this.element.querySelector(".facts").textContent = `${(this.model.bytes / 1e6).toFixed(1)} MB${more}`;
  }

  /** The seconds that finish() shows count from now; segments are read out as they come. */
  restart() {
    this.begun = performance.now();
    this.list.ariaLive = "polite";
  }

  add(segment) {
    this.partial("", "");
    this.segments.push(segment);
    const button = document.createElement("button");
    button.type = "button";
    Object.assign(button.dataset, { start: segment.start, end: segment.end });
    const time = document.createElement("span");
    time.className = "time";
    time.textContent = clock(segment.start);
    const words = document.createElement("span");
    words.className = "words";
    words.lang = this.model.language;
    words.textContent = segment.text;
    button.append(time, words);
    button.addEventListener("click", () => this.play(segment));
    const item = document.createElement("li");
    item.append(button);
    this.list.append(item);
  }

  /** Words of what is still being said; those in `stable`, with which they begin, stay. */
  partial(text, stable) {
    const place = this.element.querySelector(".partial");
    const sure = document.createElement("span");
    sure.className = "stable";
    sure.textContent = stable;
    place.replaceChildren(sure, text.slice(stable.length));
  }

  /** Mark words ({word, differs} in their order) that the other model does not say. */
  show(words) {
    let at = 0;
    this.list.querySelectorAll(".words").forEach((place, number) => {
      const count = this.segments[number].text.split(/\s+/).filter(Boolean).length;
      place.replaceChildren(...words.slice(at, at + count).flatMap(({ word, differs }) => {
        if (!differs) return [word, " "];
        const element = document.createElement("mark");
        element.textContent = word;
        return [element, " "];
      }));
      at += count;
    });
  }

  /** All has come: `file` is what downloads are made of, `since` says from when its seconds are. */
  finish(file, since = "") {
    this.file = file;
    this.list.ariaLive = "off"; // marking words is no news
    this.facts(`, ${((performance.now() - this.begun) / 1000).toFixed(1)} s${since}`);
    this.partial("", "");
    if (!this.segments.length) this.list.textContent = "Nothing was heard in this recording.";
    const downloads = this.element.querySelector(".downloads");
    downloads.hidden = !this.segments.length;
    // Words that were final while one spoke may differ from those of the whole recording.
    if (since) downloads.querySelector("span").textContent = "Download, translated again as a recording";
  }

  async download(button) {
    button.disabled = true;
    try {
      const blob = await translateAs(this.file, this.model.id, button.dataset.format);
      const link = document.createElement("a");
      link.href = URL.createObjectURL(blob);
      link.download = `translation.${this.model.language}.${button.dataset.suffix}`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    } finally {
      button.disabled = false;
    }
  }
}

function clock(seconds) {
  return `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;
}
