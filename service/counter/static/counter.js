// Shows the counter's value as it changes. Without it the page has the value of when it was loaded.
"use strict";

const count = document.getElementById("count");
const state = document.getElementById("state");
const pause = document.getElementById("pause");
const LONGEST_WAIT = 30_000; // milliseconds

let source = null;
let timer = null;
let wait = 1_000;
let isOver = false;

function read() {
  return fetch(location.pathname, { headers: { Accept: "application/json" } }).catch(() => null);
}

function show(value) {
  if (value > Number(count.value)) {
    count.value = value;
    count.innerHTML = value.toLocaleString("en").replaceAll(",", ",<wbr>");
  }
}

// A stream's first value may be lower than the page's: older, or, since the last stream, the counter was made again or an
// older backup restored. What is read now is lower in the latter cases alone.
async function showNewest(value) {
  const before = Number(count.value);
  if (value < before) {
    const answer = await read();
    if (!answer?.ok) return tryAgainLater();
    value = (await answer.json()).value;
    if (value < before) count.value = -1;
  }
  show(value);
}

function close(text) {
  clearTimeout(timer);
  source?.close();
  source = null;
  state.textContent = text;
}

function end() {
  isOver = true;
  pause.hidden = true;
  close("This counter is no longer here.");
}

// After an answer other than 200, or a counter's end, a browser does not try again by itself.
async function tryAgain() {
  const answer = await read();
  if (answer?.status === 404) {
    end();
  } else if (source !== null) {
    open();
  }
}

function tryAgainLater() {
  clearTimeout(timer);
  timer = setTimeout(tryAgain, wait * (0.5 + Math.random()));
  wait = Math.min(2 * wait, LONGEST_WAIT);
}

function open() {
  close("Connecting …");
  source = new EventSource(count.dataset.events);
  source.onopen = () => {
    wait = 1_000;
    state.textContent = "Live";
  };
  source.onmessage = (event) => showNewest(JSON.parse(event.data).value);
  source.addEventListener("deleted", () => { // perhaps made again, or an older backup restored
    source.close();
    count.value = -1;
    tryAgain();
  });
  source.onerror = () => {
    state.textContent = "The connection is lost; trying again …";
    if (source.readyState === EventSource.CLOSED) tryAgainLater();
  };
}

function openOrClose() {
  // A page that nobody sees needs no connection, of which a browser has six for a host without HTTP/2.
  if (isOver) return;
  if (pause.textContent === "Continue") {
    close("Paused");
  } else if (document.hidden) {
    close("");
  } else {
    open();
  }
}

pause.addEventListener("click", () => {
  pause.textContent = pause.textContent === "Pause" ? "Continue" : "Pause";
  openOrClose();
});
document.addEventListener("visibilitychange", openOrClose);
pause.hidden = false;
openOrClose();

// A page without TLS, other than the own machine's, has no clipboard.
for (const button of navigator.clipboard ? document.querySelectorAll(".snippet button") : []) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
    button.textContent = "Copied";
  });
}
