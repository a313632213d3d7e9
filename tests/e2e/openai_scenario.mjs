// The same in short for OpenAI's client for JavaScript. Prints how many calls it has made.
import assert from "node:assert";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "What is the capital of France?" }];
const greedy = { model: "generator", temperature: 0, max_tokens: 20 };
let calls = 0;
const chat = (more) => (calls++, client.chat.completions.create({ ...greedy, messages, ...more }));

const ids = [];
for await (const model of (calls++, await client.models.list())) ids.push(model.id);
assert(ids.includes("generator:v1"));

const plain = await chat({});
assert(plain.choices[0].message.content.includes("Paris"));
assert.equal(plain.usage.total_tokens, plain.usage.prompt_tokens + plain.usage.completion_tokens);

let text = "";
let usage;
for await (const chunk of await chat({ stream: true, stream_options: { include_usage: true } })) {
  text += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage;
}
assert.equal(text, plain.choices[0].message.content);
assert.deepEqual(usage, plain.usage);

for (const seed of [1, 2, 3]) {
  const drawn = { temperature: 1, seed, max_tokens: 8 };
  const [one, same] = [await chat(drawn), await chat(drawn)];
  assert.equal(one.choices[0].message.content, same.choices[0].message.content);
}
assert.equal((await chat({ n: 2, temperature: 1 })).choices.length, 2);
assert.equal((await chat({ stop: " is" })).choices[0].message.content, "The capital of France");

for (const n of [1, 2, 3, 4]) {
  calls++;
  const answer = await client.completions.create({ ...greedy, prompt: "Once", max_tokens: n });
  assert.equal(answer.usage.completion_tokens, n);
}
for (const input of ["a", ["a", "b"], ["a", "b", "c"]]) {
  calls++;
  const answer = await client.embeddings.create({ model: "embedder", input });
  assert.equal(answer.data.length, Array.isArray(input) ? input.length : 1);
  assert.equal(answer.data[0].embedding.length, 384);
}

calls++;
const asked = { model: "generator", temperature: 0, input: messages, max_output_tokens: 20 };
const response = await client.responses.create(asked);
assert.equal(response.output_text, plain.choices[0].message.content);
calls++;
let last;
for await (const event of await client.responses.create({ ...asked, stream: true })) last = event;
assert.equal(last.type, "response.completed");

const wrong = [
  [404, { model: "nobody" }],
  [422, { temperature: 3 }],
  [422, { tools: [{ type: "function", function: { name: "f" } }] }],
  [422, { messages: [{ role: "user", content: [{ type: "image_url" }] }] }],
  [400, { messages: [{ role: "user", content: "word ".repeat(3000) }] }],
];
for (const [status, more] of wrong) {
  for (const stream of [false, true]) {
    await assert.rejects(chat({ ...more, stream }), (error) => error.status === status && !!error.type);
  }
}

const joined = (parts) => parts.flatMap((part) => part.choices[0]?.logprobs?.content ?? []);
const likely = { logprobs: true, top_logprobs: 1, stop: " of" };
const told = await chat(likely);
const parts = [];
for await (const part of await chat({ ...likely, stream: true })) parts.push(part);
assert.deepEqual(joined(parts), told.choices[0].logprobs.content);

const seen = [];
calls++;
const prompts = { model: "generator", prompt: ["Once", "Two"], n: 2, temperature: 1, max_tokens: 4 };
for await (const part of await client.completions.create({ ...prompts, stream: true })) {
  seen.push(part.choices[0].index);
}
assert.deepEqual([...new Set(seen)].sort(), [0, 1, 2, 3]);
assert(seen.indexOf(3) < seen.lastIndexOf(0));

const city = {
  type: "object",
  properties: { city: { enum: ["Oslo", "Rome"] } },
  required: ["city"],
  additionalProperties: false,
};
const form = { type: "json_schema", json_schema: { name: "city", schema: city } };
for (const seed of [1, 2]) {
  const made = await chat({ response_format: form, temperature: 1, seed });
  assert(["Oslo", "Rome"].includes(JSON.parse(made.choices[0].message.content).city));
}

const tools = [{ type: "function", function: { name: "weather", parameters: city } }];
for (const tool_choice of ["required", { type: "function", function: { name: "weather" } }]) {
  const called = await chat({ model: "generator:tools", tools, tool_choice, max_tokens: 40 });
  assert.equal(called.choices[0].finish_reason, "tool_calls");
  const { name, arguments: given } = called.choices[0].message.tool_calls[0].function;
  assert.equal(name, "weather");
  assert("city" in JSON.parse(given));
}

const post = (path, body) => (calls++, client.post(path, { body }));
const documents = ["a car", "my cat"];
const ranked = await post("/rerank", { model: "embedder", query: "a cat", documents });
assert.equal(ranked.results[0].index, 1);
const scored = await post("/score", { model: "embedder", text_1: "a cat", text_2: documents });
assert(scored.data[0].score < scored.data[1].score);
const labelled = await post("/classify", { model: "sentiment", input: "I love it!" });
assert.equal(labelled.data[0].label, "positive");
calls++;
assert.equal((await client.models.retrieve("generator:tools")).task, "generate");

const leaving = await chat({ stream: true, max_tokens: 500, stop: null });
for await (const _ of leaving) break; // closes the connection
const abort = new AbortController();
const given_up = client.chat.completions.create(
  { ...greedy, messages, max_tokens: 500 },
  { signal: abort.signal },
);
calls++;
setTimeout(() => abort.abort(), 50);
await assert.rejects(given_up, OpenAI.APIUserAbortError);

const many = await Promise.all(Array.from({ length: 10 }, () => chat({ max_tokens: 4 })));
assert.equal(new Set(many.map((each) => each.choices[0].message.content)).size, 1);
console.log(calls);
