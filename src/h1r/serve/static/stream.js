// Requests to this server: JSON, and the chunks of a stream.

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const headers = (key) => ({ "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) });

async function refused(response) {
  const said = await response.json().catch(() => ({}));
  return new ApiError(response.status, said.error?.message ?? `the server answered ${response.status}`);
}

export async function getJson(path, key) {
  const response = await fetch(path, { headers: headers(key) });
  if (!response.ok) throw await refused(response);
  return response.json();
}

// The chunks of a streamed reply as objects. Throws ApiError for a refusal, and for an error in the middle.
// Ending the loop early, or the signal, closes the connection, which ends the request's traces.
export async function* chunksOf(path, body, key, signal) {
  const response = await fetch(path, { method: "POST", headers: headers(key), body: JSON.stringify(body), signal });
  if (!response.ok) throw await refused(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new ApiError(502, "the server ended the stream before the answer");
      const lines = (pending + value).split("\n");
      pending = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data: ")) continue;
        const data = line.slice(6).trimEnd();
        if (data === "[DONE]") return;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new ApiError(500, chunk.error.message);
        yield chunk;
      }
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}
