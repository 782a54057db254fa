// The request as a person would send it: for a shell, and for OpenAI's Python client.

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

export function curlCall(url, body) {
  return [
    `curl ${quoted(url)} \\`,
    "  -H 'Content-Type: application/json' \\",
    '  -H "Authorization: Bearer $H1R_API_KEY" \\',
    `  -d ${quoted(JSON.stringify(body))}`,
  ].join("\n");
}

export function pythonCall(base, body) {
  const { deepconf, ...known } = body;
  const lines = Object.entries(known).map(([name, value]) => `    ${name}=${literal(value)},`);
  return [
    "import os",
    "",
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${literal(base)}, api_key=os.environ.get("H1R_API_KEY", "none"))`,
    "reply = client.chat.completions.create(",
    ...lines,
    ...(deepconf ? [`    extra_body=${literal({ deepconf })},`] : []),
    ")",
    "print(reply.choices[0].message.content)",
  ].join("\n");
}

// A value of JSON as Python writes it; JSON's strings are Python's.
function literal(value) {
  if (value === true) return "True";
  if (value === false) return "False";
  if (value === null) return "None";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${literal(one)}`).join(", ")}}`;
  }
  return JSON.stringify(value);
}
