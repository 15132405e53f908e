"use strict";

function element(tag, text, ...children) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

function field(label, value) {
  const input = element("input");
  input.value = value;
  return { input, row: element("p", "", element("label", `${label} `, input)) };
}

async function send(method, path, parameters, body, output) {
  const headers = { Accept: "application/json" };
  const query = new URLSearchParams();
  for (const { about, input } of parameters) {
    if (about.in === "path") path = path.replace(`{${about.name}}`, encodeURIComponent(input.value));
    else if (input.value && about.in === "query") query.set(about.name, input.value);
    else if (input.value) headers[about.name] = input.value;
  }
  const token = document.getElementById("token").value;
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body && body.value) headers["Content-Type"] = "application/json";
  try {
    const target = query.size ? `${path}?${query}` : path;
    const answer = await fetch(target, { method, headers, body: body && body.value ? body.value : undefined });
    output.textContent = `${answer.status} ${answer.statusText}\n${await answer.text()}`;
  } catch (error) {
    output.textContent = `No answer: ${error.message}. Whether it took effect is not known.`;
  }
}

function operation(method, path, about) {
  const section = element("section", "", element("h2", `${method.toUpperCase()} ${path}`), element("p", about.summary));
  const parameters = about.parameters.map((parameter) => {
    const { input, row } = field(parameter.name, "");
    section.append(row);
    return { about: parameter, input };
  });
  let body = null;
  if (about.requestBody) {
    body = element("textarea");
    section.append(element("p", "", element("label", "body (JSON) ", body)));
  }
  const output = element("pre");
  const button = element("button", "Send");
  button.addEventListener("click", () => send(method.toUpperCase(), path, parameters, body, output));
  section.append(button, output);
  return section;
}

fetch("/openapi.json")
  .then((answer) => answer.json())
  .then((api) => {
    for (const [path, operations] of Object.entries(api.paths))
      for (const [method, about] of Object.entries(operations))
        document.querySelector("main").append(operation(method, path, about));
  });
