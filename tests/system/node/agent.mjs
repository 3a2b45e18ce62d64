// An agent in Node that knows ollama-js and nothing of us: run by test_sdks, once from its environment, once over the socket.
//
//     node agent.mjs OUT_FILE [socket]
//
// Writes what each call gave, as JSON.
import { renameSync, writeFileSync } from "node:fs";
import { Ollama } from "ollama";
import { Agent, fetch as undiciFetch } from "undici";

const [out, way] = process.argv.slice(2);
const asked = [{ role: "user", content: "[[n=3 delay=0.01]]" }];

function client() {
  if (way !== "socket") return new Ollama({ host: process.env.OLLAMA_HOST }); // it does not read the variable itself
  const dispatcher = new Agent({ connect: { socketPath: process.env.AI_SUPERVISOR_SOCKET } });
  return new Ollama({ host: "http://localhost", fetch: (url, options) => undiciFetch(url, { ...options, dispatcher }) });
}

const ollama = client();
const calls = {
  list: async () => (await ollama.list()).models.map((model) => model.name).sort(),
  chat: async () => (await ollama.chat({ model: "chat", messages: asked })).message.content,
  "chat stream": async () => {
    const parts = [];
    for await (const part of await ollama.chat({ model: "chat", messages: asked, stream: true })) parts.push(part.message.content);
    return parts;
  },
  "chat odd characters": async () => {
    const parts = [];
    const messages = [{ role: "user", content: "[[n=2 uni=1]]" }];
    for await (const part of await ollama.chat({ model: "chat", messages, stream: true })) parts.push(part.message.content);
    return parts;
  },
  "abort in the middle": async () => {
    const messages = [{ role: "user", content: "[[n=500 delay=0.05]]" }];
    const stream = await ollama.chat({ model: "chat", messages, stream: true });
    try {
      for await (const _ of stream) stream.abort();
      return "went on";
    } catch (error) {
      return error.name;
    }
  },
  embed: async () => (await ollama.embed({ model: "embed", input: ["a", "b c"] })).embeddings,
  "without the model": async () => (await ollama.generate({ model: "nope", prompt: "x" })).response,
};

const told = {};
for (const [name, call] of Object.entries(calls)) {
  try {
    told[name] = await call();
  } catch (error) {
    told[name] = [error.name, error.status_code, error.message];
  }
}
writeFileSync(`${out}.tmp`, JSON.stringify(told));
renameSync(`${out}.tmp`, out);
process.exit(0); // an aborted stream may keep a timer of the client's
