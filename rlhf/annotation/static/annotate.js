"use strict";
// Choices wait in an outbox in the browser's local storage until the server has written them, so
// that the page never waits for the server. All text is set with textContent, never as HTML.

const PREFETCH = 4; // pairs on this page, the shown one included
const RETRY_AFTER = 400; // milliseconds
const KEYS = {
  1: "left", a: "left", ArrowLeft: "left", 2: "right", b: "right", ArrowRight: "right",
  0: "tie", t: "tie", s: "skip", z: "undo", m: "seen", "+": "zoom", "=": "zoom", "?": "help",
};
const $ = (id) => document.getElementById(id);
const token = new URLSearchParams(location.hash.slice(1)).get("token") || "";
const store = { name: "rlhf.name", outbox: `rlhf.outbox.${token}` };

const page = newKey(); // identifies this page: the server gives a pair to one page at a time
let current = null; // the pair that is shown
let queue = []; // the next pairs; their images are loading
let outbox = JSON.parse(localStorage.getItem(store.outbox) || "[]");
let name = localStorage.getItem(store.name) || "";
let shownAt = 0;
let sending = false;
let requesting = false;
let locked = false; // while an undo or a change of name is under way
let finished = 0; // choices made since the page was opened, for the rate
let seconds = 0; // that they took

function say(kind, text) {
  $("state").dataset.kind = kind;
  $("state").textContent = text;
}

function pause() {
  return new Promise((resolve) => setTimeout(resolve, RETRY_AFTER));
}

function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function request(body) {
  const headers = { "Content-Type": "application/json", "X-Token": token };
  return { method: "POST", headers, body: JSON.stringify(body), keepalive: true };
}

// Return the server's response, retried until it can be reached; null if it refuses.
async function post(path, body) {
  for (;;) {
    let response, result;
    try {
      response = await fetch(path, request(body));
      result = await response.json();
    } catch {
      say("bad", outbox.length ? `no connection, ${outbox.length} waiting` : "no connection");
      await pause();
      continue;
    }
    if (response.ok) {
      showProgress(result);
      return result;
    }
    say("bad", result.error || `refused (${response.status})`);
    if (response.status < 500) {
      if (response.status === 403) notice(result.error);
      return null;
    }
    await pause(); // e.g. a full disk, which may be freed
  }
}

function showProgress(result) {
  const { done, total } = result.progress;
  $("bar").max = Math.max(total, 1);
  $("bar").value = done;
  $("count").textContent = `${done} of ${total}`;
  if (document.activeElement !== $("name")) $("name").value = result.annotator;
  $("rate").textContent = finished >= 5 ? `${Math.round((3600 * finished) / seconds)} pairs/h` : "";
}

function notice(text, commands = "") {
  current = null;
  $("main").hidden = true;
  $("notice").hidden = false;
  $("words").textContent = text;
  $("commands").textContent = commands;
  for (const button of document.querySelectorAll(".needs-image")) button.disabled = true;
}

// The question and the answer of an earlier turn, as two paragraphs.
function earlierTurn(turn) {
  return ["instruction", "response"].map((part) => {
    const paragraph = document.createElement("p");
    paragraph.className = part === "response" ? "answer" : "question";
    paragraph.textContent = turn[part];
    return paragraph;
  });
}

function show(pair) {
  current = pair;
  $("notice").hidden = true;
  $("main").hidden = false;
  $("history").replaceChildren(...pair.history.flatMap(earlierTurn));
  $("instruction").textContent = pair.instruction;
  $("left").textContent = pair.left;
  $("right").textContent = pair.right;
  for (const response of document.querySelectorAll(".response")) response.scrollTop = 0;
  $("history").scrollTop = $("history").scrollHeight; // the turn before the instruction
  if (document.activeElement instanceof HTMLButtonElement) document.activeElement.blur();
  showImage();
}

function next() {
  if (queue.length) show(queue.shift());
  else if (requesting || outbox.length) notice("…");
  refill();
}

// Request pairs until the page has enough.
async function refill() {
  const pairs = current ? [current, ...queue] : queue;
  if (requesting || pairs.length >= PREFETCH) return;
  requesting = true;
  const held = [...pairs.map((pair) => pair.key), ...outbox.map((choice) => choice.pair)];
  const result = await post("/api/pairs", { annotator: name, page, held, count: PREFETCH - pairs.length });
  requesting = false;
  if (!result) return;
  if (!result.annotator) return $("who").open || $("who").showModal();
  queue.push(...result.pairs.map(preload));
  if (!outbox.length) say("saved", "saved");
  if (current) return;
  if (queue.length) next();
  else finish(result.progress, result.next_step);
}

function finish(progress, nextStep) {
  if (progress.total)
    notice("That was the last pair. Thank you!\nZ takes back your last answer. You may close the page.", nextStep);
  else notice("There is nothing to judge here: other people have these pairs, or the file holds none.");
}

function submit(choice, reason = "") {
  if (!current || locked || (choice !== "skip" && current.state !== "ready")) return;
  const spent = Math.min((performance.now() - shownAt) / 1000, 86400);
  outbox.push({ annotator: name, key: newKey(), pair: current.key, choice, seconds: spent, reason });
  finished += 1;
  seconds += spent;
  storeOutbox();
  current = null;
  next();
  send();
}

function storeOutbox() {
  localStorage.setItem(store.outbox, JSON.stringify(outbox));
}

// Send the choices in the outbox, one after the other, until each is written.
async function send() {
  if (sending) return;
  sending = true;
  while (outbox.length) {
    say("busy", outbox.length > 1 ? `saving ${outbox.length}` : "saving");
    const result = await post("/api/judgments", outbox[0]);
    outbox.shift();
    storeOutbox();
    if (result && !outbox.length) say("saved", "saved");
  }
  sending = false;
}

// Wait until the outbox is empty and no request is under way.
async function outboxEmpty() {
  send();
  while (outbox.length || sending || requesting) await new Promise((resolve) => setTimeout(resolve, 5));
}

async function undo() {
  if (locked) return;
  locked = true;
  await outboxEmpty();
  const result = await post("/api/undo", { annotator: name, page, key: newKey() });
  locked = false;
  if (!result) return;
  if (!result.pair) return say("saved", "nothing to undo");
  if (current) queue.unshift(current);
  show(preload(result.pair));
  say("saved", "taken back");
}

// The body of a request that returns this page's pairs to other annotators.
function release() {
  return { annotator: name, page, held: [], count: 0 };
}

async function rename(wanted) {
  if (locked) return;
  locked = true;
  await outboxEmpty();
  await post("/api/pairs", release());
  name = wanted.trim();
  localStorage.setItem(store.name, name);
  queue = [];
  notice("…");
  locked = false;
  next();
}

const actions = {
  left: () => submit("left"), right: () => submit("right"), tie: () => submit("tie"), undo, zoom, seen,
  skip: () => current && !locked && $("skip").showModal(), help: () => $("help").showModal(),
};

function skipFor(reason) {
  $("skip").close();
  $("reason").value = "";
  submit("skip", reason);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const typing = event.target instanceof HTMLInputElement;
  if ($("skip").open) {
    const button = $("skip").querySelectorAll("[data-reason]")[Number(key) - 1];
    if (!button || typing) return;
    event.preventDefault();
    skipFor(button.dataset.reason);
  } else if (!typing && Object.hasOwn(KEYS, key)) {
    const action = KEYS[key];
    if (event.repeat || $("help").open || ($("zoom").open && action !== "zoom")) return;
    event.preventDefault();
    actions[action]();
  }
});

for (const button of document.querySelectorAll("[data-do]")) {
  button.addEventListener("click", () => actions[button.dataset.do]());
}
for (const button of document.querySelectorAll("[data-reason]")) {
  button.addEventListener("click", () => skipFor(button.dataset.reason));
}
$("skip").querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if ($("reason").value.trim()) skipFor($("reason").value.trim());
});
$("who").addEventListener("cancel", (event) => event.preventDefault()); // a name is needed
$("who").querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!$("asked").value.trim()) return;
  $("who").close();
  rename($("asked").value);
});
$("image").addEventListener("click", zoom);
$("zoom").addEventListener("click", zoom);
$("help").addEventListener("click", () => $("help").close());
$("name").addEventListener("change", () => rename($("name").value));
$("name").addEventListener("keydown", (event) => event.key === "Enter" && $("name").blur());

window.addEventListener("pagehide", () => fetch("/api/pairs", request(release())));

$("name").value = name;
send();
next();
