"use strict";
// The page of pairs: what is shown and chosen. Choices wait in the outbox until the server has written
// them, so that the page never waits for the server. All text is set with textContent, never as HTML.

const PREFETCH = 4; // pairs on this page, the shown one included
const KEYS = {
  1: "left", a: "left", ArrowLeft: "left", 2: "right", b: "right", ArrowRight: "right",
  0: "tie", t: "tie", s: "skip", z: "undo", m: "seen", "+": "zoom", "=": "zoom", "?": "help",
};

const page = newKey(); // identifies this page: the server gives a pair to one page at a time
let current = null; // the pair that is shown
let queue = []; // the next pairs; their images are loading
let name = localStorage.getItem("rlhf.name") || "";
let shownAt = 0;
let sending = false;
let requesting = false;
let locked = false; // while an undo or a change of name is under way
let finished = 0; // choices made since the page was opened, for the rate
let seconds = 0; // that they took

function showProgress(result) {
  const { done, total } = result.progress;
  store(`rlhf.log.${log}`, result.log);
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
  else notice("…");
  refill();
}

function held() {
  return current ? [current, ...queue] : queue;
}

// What the page asks for: pairs besides those that it has, or whose answers wait in any tab.
async function wanted() {
  if (trouble()) await allSent(); // nobody is to judge much that cannot be written
  const keys = [...held().map((pair) => pair.key), ...waiting(log).map((slot) => read(slot).pair)];
  return { annotator: name, page, held: keys, count: PREFETCH - held().length };
}

// Request pairs until the page has enough.
async function refill() {
  if (requesting || held().length >= PREFETCH) return;
  requesting = true;
  const result = await post("/api/pairs", wanted);
  requesting = false;
  if (result.error) return;
  if (!result.annotator) return $("who").open || $("who").showModal();
  queue.push(...result.pairs.map(preload));
  saySaved();
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
  const answer = { annotator: name, key: newKey(), pair: current.key, choice, seconds: spent, reason };
  if (!keep(answer)) return say("bad", "not taken: this browser's storage is full");
  finished += 1;
  seconds += spent;
  current = null;
  showTrouble();
  next();
  send();
}

// Send the choices in the outbox, one after the other, until each is written or refused.
async function send() {
  if (sending) return;
  sending = true;
  for (let slot; (slot = unsent()[0]); ) {
    if (!trouble()) say("busy", unsent().length > 1 ? `saving ${unsent().length}` : "saving");
    const answer = read(slot);
    const result = await post("/api/judgments", () => answer);
    if (result.error) refused.set(slot, result.error);
    else localStorage.removeItem(slot);
    showTrouble();
    saySaved();
  }
  sending = false;
}

// Send also what was refused: the server may be a new one, of other candidates.
function sendAgain() {
  refused.clear();
  send();
}

// Wait until every choice in the outbox is written or refused.
async function allSent() {
  send();
  while (sending) await pause(5);
}

// Wait until no request is under way either.
async function idle() {
  send();
  while (sending || requesting) await pause(5);
}

async function undo() {
  if (locked) return;
  locked = true;
  await idle();
  const body = { annotator: name, page, key: newKey() };
  const result = await post("/api/undo", () => body);
  locked = false;
  if (result.error) return;
  if (!result.pair) return say("saved", "nothing to undo");
  if (current) queue.unshift(current);
  show(preload(result.pair));
  say("saved", "taken back");
}

// The body of a request that returns this page's pairs to other annotators.
function release() {
  return { annotator: name, page, held: [], count: 0 };
}

async function rename(newName) {
  if (locked) return;
  locked = true;
  await idle();
  await post("/api/pairs", release);
  name = newName.trim();
  store("rlhf.name", name);
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

window.addEventListener("pagehide", () => trouble() || fetch("/api/pairs", request(release())));
window.addEventListener("hashchange", () => location.reload()); // a new link, with another token
window.addEventListener("storage", showTrouble);
window.addEventListener("focus", sendAgain); // what a closed tab left, too

$("name").value = name;
showTrouble();
send();
next();
