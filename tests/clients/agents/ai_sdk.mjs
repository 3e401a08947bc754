// The AI SDK: a task with one tool in two turns, by each of its providers. Prints what the last turn says.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const [url, kind] = process.argv.slice(2);
const provider = {
  responses: () => createOpenAI({ baseURL: url + "/v1", apiKey: "none" })("scripted"),
  chat: () => createOpenAI({ baseURL: url + "/v1", apiKey: "none" }).chat("scripted"),
  compatible: () => createOpenAICompatible({ name: "local", baseURL: url + "/v1" })("scripted"),
  anthropic: () => createAnthropic({ baseURL: url + "/v1", apiKey: "none" })("claude-sonnet-4-5"),
}[kind]();

const tools = {
  get_weather: tool({
    description: "Weather of a city",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => `clear in ${city}`,
  }),
};
const messages = [{ role: "user", content: 'CALL get_weather {"city": "Athens"}' }];

const first = await generateText({ model: provider, tools, messages, stopWhen: stepCountIs(4) });
console.log("first:", first.text);
messages.push(...first.response.messages, { role: "user", content: 'CALL get_weather {"city": "Oslo"}' });
const second = streamText({ model: provider, tools, messages, stopWhen: stepCountIs(4), onError: ({ error }) => { throw error; } });
let text = "";
for await (const piece of second.textStream) text += piece;
console.log("second:", text);
if (kind !== "anthropic") {
  const formatted = await generateText({
    model: provider, tools, stopWhen: stepCountIs(4), messages: messages.slice(0, 1),
    output: Output.text(),
  });
  console.log("third:", formatted.text);
}
