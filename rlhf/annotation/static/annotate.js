"use strict";
// Answers wait in an outbox, kept in the browser, until the server has written them: the page
// never waits for it. Every text is set by textContent.

const AHEAD = 4; // pairs at hand
const WAIT = 400; // milliseconds before a request is sent again
const KEYS = {
  1: "left", a: "left", ArrowLeft: "left", 2: "right", b: "right", ArrowRight: "right",
  0: "tie", t: "tie", s: "skip", z: "undo", "+": "zoom", "=": "zoom", "?": "help",
};
const $ = (id) => document.getElementById(id);
const token = new URLSearchParams(location.hash.slice(1)).get("token") || "";
const store = { name: "rlhf.name", outbox: `rlhf.outbox.${token}` };

const page = newKey(); // two pages never have the same pair at hand
let current = null; // the pair that is shown
let queue = []; // pairs that come next, their images loading
let outbox = JSON.parse(localStorage.getItem(store.outbox) || "[]");
let name = localStorage.getItem(store.name) || "";
let shownAt = 0;
let sending = false;
let asking = false;
let locked = false; // while an undo or a change of name is under way
let finished = 0; // answers and seconds of this visit, for the rate
let seconds = 0;

function say(kind, text) {
  $("state").dataset.kind = kind;
  $("state").textContent = text;
}

function pause() {
  return new Promise((resolve) => setTimeout(resolve, WAIT));
}

function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function request(body) {
  const headers = { "Content-Type": "application/json", "X-Token": token };
  return { method: "POST", headers, body: JSON.stringify(body), keepalive: true };
}

// The answer of the server, however long it is away; null if it refuses.
async function post(path, body) {
  for (;;) {
    let response, found;
    try {
      response = await fetch(path, request(body));
      found = await response.json();
    } catch {
      say("bad", outbox.length ? `no connection, ${outbox.length} waiting` : "no connection");
      await pause();
      continue;
    }
    if (response.ok) {
      showProgress(found);
      return found;
    }
    say("bad", found.error || `refused (${response.status})`);
    if (response.status < 500) {
      if (response.status === 403) notice(found.error);
      return null;
    }
    await pause(); // a full disk may be emptied
  }
}

function showProgress(found) {
  const { done, total } = found.progress;
  $("bar").max = Math.max(total, 1);
  $("bar").value = done;
  $("count").textContent = `${done} of ${total}`;
  if (document.activeElement !== $("name")) $("name").value = found.annotator;
  $("rate").textContent = finished ? `${Math.round((3600 * finished) / seconds)} pairs/h` : "";
}

function notice(text) {
  current = null;
  $("main").hidden = true;
  $("notice").hidden = false;
  $("notice").textContent = text;
}

function preload(pair) {
  const image = new Image();
  image.alt = "the image that the answers are about";
  image.addEventListener("load", () => {
    image.classList.toggle("tiny", Math.max(image.naturalWidth, image.naturalHeight) <= 160);
  });
  image.src = pair.image;
  image.decode().catch(() => {});
  return { ...pair, image };
}

function show(pair) {
  current = pair;
  $("notice").hidden = true;
  $("main").hidden = false;
  $("image").replaceChildren(pair.image);
  $("instruction").textContent = pair.instruction;
  $("left").textContent = pair.left;
  $("right").textContent = pair.right;
  for (const answer of document.querySelectorAll(".answer")) answer.scrollTop = 0;
  if (document.activeElement instanceof HTMLButtonElement) document.activeElement.blur();
  shownAt = performance.now();
}

function next() {
  if (queue.length) show(queue.shift());
  else if (asking || outbox.length) notice("…");
  refill();
}

// Ask for pairs until enough are at hand.
async function refill() {
  const mine = current ? [current, ...queue] : queue;
  if (asking || mine.length >= AHEAD) return;
  asking = true;
  const held = [...mine.map((pair) => pair.key), ...outbox.map((answer) => answer.pair)];
  const found = await post("/api/pairs", { annotator: name, page, held, count: AHEAD - mine.length });
  asking = false;
  if (!found) return;
  queue.push(...found.pairs.map(preload));
  if (!outbox.length) say("saved", "saved");
  if (current) return;
  if (queue.length) next();
  else finish(found.progress);
}

function finish(progress) {
  notice(
    progress.total
      ? "That was the last pair. Thank you!\nZ takes back your last answer. You may close the page."
      : "There is nothing to judge here: other people have these pairs, or the file holds none.",
  );
}

function answer(choice, reason = "") {
  if (!current || locked) return;
  const spent = Math.min((performance.now() - shownAt) / 1000, 86400);
  outbox.push({ annotator: name, key: newKey(), pair: current.key, choice, seconds: spent, reason });
  finished += 1;
  seconds += spent;
  keepOutbox();
  current = null;
  next();
  send();
}

function keepOutbox() {
  localStorage.setItem(store.outbox, JSON.stringify(outbox));
}

// Send what waits, one after the other, each until it is written.
async function send() {
  if (sending) return;
  sending = true;
  while (outbox.length) {
    say("busy", outbox.length > 1 ? `saving ${outbox.length}` : "saving");
    const found = await post("/api/answers", outbox[0]);
    outbox.shift();
    keepOutbox();
    if (found && !outbox.length) say("saved", "saved");
  }
  sending = false;
}

async function emptied() {
  send();
  while (outbox.length || sending || asking) await new Promise((resolve) => setTimeout(resolve, 5));
}

async function undo() {
  if (locked) return;
  locked = true;
  await emptied();
  const found = await post("/api/undo", { annotator: name, page, key: newKey() });
  locked = false;
  if (!found) return;
  if (!found.pair) return say("saved", "nothing to undo");
  if (current) queue.unshift(current);
  show(preload(found.pair));
  say("saved", "taken back");
}

// A request that gives the pairs at hand back to the others.
function release() {
  return { annotator: name, page, held: [], count: 0 };
}

async function rename() {
  if (locked) return;
  const wanted = $("name").value.trim();
  locked = true;
  await emptied();
  await post("/api/pairs", release());
  name = wanted;
  localStorage.setItem(store.name, name);
  queue = [];
  notice("…");
  locked = false;
  next();
}

function zoom() {
  if ($("zoom").open) return $("zoom").close();
  if (!current) return;
  $("zoom").replaceChildren(current.image.cloneNode());
  $("zoom").showModal();
}

const actions = {
  left: () => answer("left"), right: () => answer("right"), tie: () => answer("tie"), undo, zoom,
  skip: () => current && !locked && $("skip").showModal(), help: () => $("help").showModal(),
};

function skipFor(reason) {
  $("skip").close();
  $("reason").value = "";
  answer("skip", reason);
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
$("image").addEventListener("click", zoom);
$("zoom").addEventListener("click", zoom);
$("help").addEventListener("click", () => $("help").close());
$("name").addEventListener("change", rename);
$("name").addEventListener("keydown", (event) => event.key === "Enter" && $("name").blur());

window.addEventListener("pagehide", () => fetch("/api/pairs", request(release())));

$("name").value = name;
send();
next();
