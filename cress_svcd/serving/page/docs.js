// The server's OpenAPI description, for people.

import { describe } from "./server.js";

function addRow(table, cells) {
  const row = table.tBodies[0].insertRow();
  for (const cell of cells) row.insertCell().textContent = cell;
}

function kind(schema) {
  if (schema.enum) return schema.enum.join(", ");
  if (schema.format === "binary") return "file";
  return schema.type;
}

function meaning(schema, required) {
  const parts = [schema.description];
  if (schema.examples?.length) parts.push(`such as ${schema.examples.join(", ")}`);
  if (schema.default !== undefined) parts.push(`${schema.default} where it is not given`);
  if (required) parts.push("required");
  return parts.filter(Boolean).join("; ");
}

function show(method, path, operation) {
  const section = document.getElementById("request").content.cloneNode(true);
  section.querySelector("code").textContent = `${method.toUpperCase()} ${path}`;
  const { summary, description = "" } = operation;
  section.querySelector(".about").textContent = `${summary} ${description}`.trim();
  const schema = operation.requestBody?.content["multipart/form-data"].schema;
  const fields = section.querySelector(".fields");
  fields.hidden = !schema;
  for (const [name, field] of Object.entries(schema?.properties ?? {}))
    addRow(fields, [name, kind(field), meaning(field, schema.required.includes(name))]);
  for (const [status, answer] of Object.entries(operation.responses))
    addRow(section.querySelector(".answers"),
      [status, Object.keys(answer.content ?? {}).join(", "), answer.description]);
  document.getElementById("requests").append(section);
}

try {
  for (const [path, operations] of Object.entries((await describe()).paths))
    for (const method of ["get", "post"])
      if (operations[method]) show(method, path, operations[method]);
} catch (error) {
  document.getElementById("error").textContent =
    error.status === 401 ? "This server asks for a token: give it on its page first." : error.message;
}
