// Shared by all pages: calls to the API, and making elements without ever parsing text as HTML.
"use strict";

const CSRF = document.querySelector('meta[name="csrf-token"]').content;

class ApiError extends Error {
  constructor(status, body) {
    super(typeof body.detail === "string" ? body.detail : JSON.stringify(body.detail ?? body));
    this.status = status;
    this.body = body;
  }
}

// Only what the server itself says counts as its answer. A Wi-Fi's sign-in page or a proxy's error is none: it throws
// what a lost connection throws, since nothing may have arrived.
async function call(method, path, body) {
  const response = await fetch("/api/v1" + path, {
    method,
    headers: { "X-CSRF-Token": CSRF, ...(body === undefined ? {} : { "Content-Type": "application/json" }) },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (response.status === 204) return null;
  const answer = await response.json();
  if (response.ok) return answer;
  if (answer.detail === undefined) throw new TypeError("this answer is not the annotation server's");
  throw new ApiError(response.status, answer);
}

// Logged out, or logged in again elsewhere, which makes this page's CSRF token void: the page has to be opened again.
const outOfSession = (error) => error instanceof ApiError && (error.status === 401 || error.status === 403);
const explain = (error) => (error instanceof ApiError ? error.message : "The server cannot be reached.");

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") element.textContent = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

// Lines that the server highlighted and escaped; nothing else may come here.
function highlightedLine(html, className) {
  const element = make("code", { class: className });
  element.innerHTML = html === "" ? " " : html;
  return element;
}

const MEANS = { 1: "correct", "-1": "wrong", 0: "unsure" }; // of a label
const byId = (id) => document.getElementById(id);
const percent = (value) => (value === null || value === undefined ? "–" : (100 * value).toFixed(0) + "%");

// What happened, for screen readers.
function say(text) {
  byId("live").textContent = text;
}

// What people should read before they go on. link: {text, href}.
function note(text, link) {
  byId("note").replaceChildren(text, ...(link ? [" ", make("a", { href: link.href, text: link.text })] : []));
  byId("note").hidden = !text;
  if (text) say(text);
}
