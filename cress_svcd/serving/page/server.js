// Asking the server: models, files whose segments come as events, live audio.

let token = sessionStorage.getItem("token") ?? "";

export function useToken(value) {
  token = value;
  sessionStorage.setItem("token", value);
}

function headers() {
  return token ? { authorization: `Bearer ${token}` } : {};
}

export class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function checked(answer) {
  if (answer.ok) return answer;
  let message = `the server answered ${answer.status}`;
  try {
    message = (await answer.json()).error.message;
  } catch { /* of something between it and us */ }
  throw new ServerError(answer.status, message);
}

export async function listModels() {
  return (await (await checked(await fetch("/v1/models", { headers: headers() }))).json()).data;
}

export async function describe() {
  return (await checked(await fetch("/openapi.json", { headers: headers() }))).json();
}

function form(file, fields) {
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) body.append(name, value);
  body.append("file", file, "recording");
  return body;
}

function post(file, fields, signal) {
  return fetch("/v1/audio/translations", {
    method: "POST", headers: headers(), body: form(file, fields), signal,
  }).then(checked);
}

export async function translateAs(file, model, format) {
  return (await post(file, { model, response_format: format })).blob();
}

/** Events of a file's translation: its segments, then all. */
export async function* translate(file, model, signal) {
  const answer = await post(file, { model, stream: "true" }, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new ServerError(0, "the connection ended before the translation");
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const event = JSON.parse(block.replace(/^data: /, ""));
      if (event.type === "error") throw new ServerError(0, event.error.message);
      yield event;
      if (event.type === "transcript.text.done") return;
    }
  }
}

/**
 * A live connection. send() takes PCM, stop() says that no more comes, unsent() counts bytes that wait here;
 * `onMessage` gets partial and final words.  `done` resolves after the last of them, and rejects with what
 * went wrong, or when `signal` aborts.
 */
export function openLive(model, signal, onMessage) {
  const url = new URL("/v1/audio/translations/live", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  const socket = new WebSocket(url);
  const early = [JSON.stringify({ type: "start", model, token })]; // before the connection is open
  const send = (data) => {
    if (socket.readyState === WebSocket.CONNECTING) early.push(data);
    else if (socket.readyState === WebSocket.OPEN) socket.send(data);
  };
  const done = new Promise((resolve, reject) => {
    socket.onopen = () => early.forEach((data) => socket.send(data));
    socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      if (signal.aborted) return;
      if (message.type === "error") reject(liveError(message.error));
      else if (message.type === "done") resolve();
      else onMessage(message);
    };
    socket.onclose = () => reject(new ServerError(0, "the live connection broke off")); // unless settled
    signal.addEventListener("abort", () => {
      reject(signal.reason);
      socket.close();
    });
  });
  return { done, send, stop: () => send(JSON.stringify({ type: "stop" })), unsent: () => socket.bufferedAmount };
}

function liveError({ code, message }) {
  return new ServerError(code === "invalid_api_key" ? 401 : 0, message);
}
