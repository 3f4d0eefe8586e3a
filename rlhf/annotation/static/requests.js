"use strict";
// Requests to the server of this page's log, and what the page says while it does not take them.

const RETRY_AFTER = 400; // milliseconds until a server that is away is looked for again
const LOOK_AFTER = 1000; // milliseconds until a server that does not take requests is asked again
const AWAY = "no connection";
const $ = (id) => document.getElementById(id);
const token = new URLSearchParams(location.hash.slice(1)).get("token") || "";
const troubles = new Map(); // why a request waits, by path

function say(kind, text) {
  $("state").dataset.kind = kind;
  $("state").textContent = text;
}

// Say that all is saved, if nothing waits to be.
function saySaved() {
  if (trouble() || unsent().length) return;
  const aside = waiting(log).length - unsent().length;
  if (aside) say("bad", `${aside} refused`);
  else say("saved", "saved");
}

function pause(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

function request(body) {
  const headers = { "Content-Type": "application/json", "X-Token": token, "X-Log": log };
  return { method: "POST", headers, body: JSON.stringify(body), keepalive: true };
}

// Return what the log's server responds, which has an `error` if it will never take the request.
// While it is away, takes nothing, or another server answers in its place, the request waits.
async function post(path, body) {
  for (;;) {
    const result = await attempt(path, await body());
    if (!result.trouble) {
      setTrouble(path, "");
      if (result.error) say("bad", result.error);
      else showProgress(result);
      return result;
    }
    setTrouble(path, result.trouble);
    await serverOfLog(path);
  }
}

async function attempt(path, body) {
  try {
    const response = await fetch(path, request(body));
    const foreign = whyForeign(response);
    if (foreign) return { trouble: foreign };
    const result = await response.json();
    const mayPass = [403, 408].includes(response.status) || response.status >= 500; // a full disk
    return mayPass ? { trouble: result.error } : result;
  } catch {
    return { trouble: AWAY };
  }
}

// Why a response is not one of the log's server; "" if it is.
function whyForeign(response) {
  if (response.headers.get("X-Log") === log) return "";
  if (response.status >= 500) return AWAY; // of a proxy
  return `another server answers at ${location.host}: start rlhf annotate for ${logName(log)} there again`;
}

// Wait until the log's server answers here; others see neither answers nor the token meanwhile.
async function serverOfLog(path) {
  let foreign;
  do {
    await pause(troubles.get(path) === AWAY ? RETRY_AFTER : LOOK_AFTER);
    foreign = await fetch("/", { method: "HEAD" }).then(whyForeign, () => AWAY);
    if (foreign) setTrouble(path, foreign);
  } while (foreign);
}

// Why nothing is sent; "" if nothing waits. Other requests may be waiting for the judgments only.
function trouble() {
  return troubles.get("/api/judgments") || [...troubles.values()][0] || "";
}

function setTrouble(path, reason) {
  const before = trouble();
  if (reason) troubles.set(path, reason);
  else troubles.delete(path);
  if (before && !trouble()) sendAgain();
  showTrouble();
}

function sentence(words) {
  return words[0].toUpperCase() + words.slice(1).replace(/\.?$/, ".");
}

// Say what keeps answers in this browser, how many they are, and what to do.
function showTrouble() {
  const count = unsent().length, reason = trouble();
  if (reason) say("bad", (reason === AWAY ? AWAY : "not sent") + (count ? `, ${count} waiting` : ""));
  const stopped = reason && reason !== AWAY ? sentence(reason) : "";
  const then = stopped && count ? `${answers(count, "wait")} in this browser for ${logName(log)}, and will be sent then.` : "";
  const text = [stopped, then, setAside(), ...elsewhere()].filter(Boolean).join("\n");
  if ($("trouble").textContent !== text) $("trouble").textContent = text;
  $("trouble").hidden = !text;
}

