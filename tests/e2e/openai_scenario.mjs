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

const leaving = await chat({ stream: true, max_tokens: 500, stop: null });
for await (const _ of leaving) break; // closes the connection

const many = await Promise.all(Array.from({ length: 10 }, () => chat({ max_tokens: 4 })));
assert.equal(new Set(many.map((each) => each.choices[0].message.content)).size, 1);
console.log(calls);
