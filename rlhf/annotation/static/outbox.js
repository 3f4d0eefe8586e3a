"use strict";
// The outbox: answers that wait in the browser's local storage until their log's server has written
// them. Each has a storage key of its own, so that tabs never overwrite each other's, and any tab of
// the log may send all of them: the server writes an answer once, however often it comes.

const OUTBOX = "rlhf.outbox."; // then the log's id, the time and the answer's key
const log = document.documentElement.dataset.log; // id of the log that this page's answers are for
const refused = new Map(); // why the log's server refuses an answer that waits, by storage key

function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Store a text; false if the browser's storage is full.
function store(slot, text) {
  try {
    localStorage.setItem(slot, text);
    return true;
  } catch {
    return false;
  }
}

function keep(answer) {
  return store(`${OUTBOX}${log}.${Date.now()}.${answer.key}`, JSON.stringify(answer));
}

function read(slot) {
  return JSON.parse(localStorage.getItem(slot));
}

// The storage keys of the answers that wait for a log, oldest first; without a log: for any.
function waiting(id = "") {
  return Object.keys(localStorage).filter((slot) => slot.startsWith(OUTBOX + id)).sort();
}

// The storage keys of the answers that are to be sent: those that the server does not refuse.
function unsent() {
  return waiting(log).filter((slot) => !refused.has(slot));
}

function logName(id) {
  return localStorage.getItem(`rlhf.log.${id}`) || "its log";
}

function answers(count, verb) {
  return count === 1 ? `1 answer ${verb}s` : `${count} answers ${verb}`;
}

// What to say of answers that the server refuses: they stay, and are sent once more by a new page.
function setAside() {
  const slots = waiting(log).filter((slot) => refused.has(slot));
  if (!slots.length) return "";
  const reasons = [...new Set(slots.map((slot) => refused.get(slot)))].join("; ");
  return `${answers(slots.length, "stay")} in this browser, refused by the server: ${reasons}. Reload this page to try again.`;
}

// What to say of answers that wait here for other logs, a line for each.
function elsewhere() {
  const ids = waiting().map((slot) => slot.slice(OUTBOX.length).split(".")[0]);
  return [...new Set(ids)].filter((id) => id !== log).map((id) => {
    const count = ids.filter((other) => other === id).length;
    return `${answers(count, "wait")} in this browser for ${logName(id)}: start rlhf annotate for it at ${location.host} and open its link.`;
  });
}
