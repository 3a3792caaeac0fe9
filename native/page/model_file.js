// Where a model comes from, and what its header says.

import { EngineError } from "./engine.js";

export function nameOf(source) {
  if (typeof source !== "string") return source.name;
  const last = source.split(/[?#]/)[0].split("/").pop();
  try {
    return decodeURIComponent(last) || source;
  } catch { // "100%.cress" is an address all the same
    return last;
  }
}

/** A File, or the address of one -> its stream and size (0: the server does not say). */
export async function openSource(source) {
  if (typeof source !== "string") return { stream: source.stream(), size: source.size };
  const answer = await fetch(source).catch(() => null);
  if (!answer) throw new EngineError(`${source} cannot be reached: check the address; a server of another name must allow it (CORS). Or download the model and choose its file.`);
  if (!answer.ok) throw new EngineError(`${source} answers ${answer.status}: check the address.`);
  const packed = answer.headers.get("content-encoding");
  return { stream: answer.body, size: packed ? 0 : Number(answer.headers.get("content-length")) };
}

/** Languages of a model, and whether it has learnt to cut, by its header alone. */
export function describe(bytes, name) {
  const other = `${name} is not a model for this page: it needs a .cress file, which "cress-svcd export" writes of a packed model.`;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = bytes.length < 8 ? Infinity : Number(view.getBigUint64(0, true));
  if (bytes[8] !== 0x7b || length > 1e8) throw new EngineError(other);
  if (length > bytes.length - 8) throw new EngineError(`${name} is not complete: load it again.`);
  let header;
  try {
    header = JSON.parse(new TextDecoder().decode(bytes.slice(8, 8 + length)));
  } catch {
    throw new EngineError(`${name} is damaged (its header cannot be read): load it again, or export it again.`);
  }
  if (header.__metadata__?.format !== "cress") throw new EngineError(other);
  const place = header["vocabulary/config.yaml"]?.data_offsets ?? [0, 0];
  const config = new TextDecoder().decode(bytes.slice(8 + length + place[0], 8 + length + place[1]));
  const language = (side) => new RegExp(`^${side}_lang: *['"]?([a-z]{2,3})\\b`, "m").exec(config)?.[1] ?? "";
  const hasSegmenter = /"segmenter": *\{/.test(header.__metadata__.plan);
  return { from: language("src"), to: language("tgt"), hasSegmenter };
}
