// node llamacpp.mjs FOLDER FILE.gguf: what llama.cpp makes of texts. FOLDER holds node-llama-cpp. Stdin is a JSON object:
// texts, and how many of the most likely tokens behind every token are wanted. Stdout is a JSON list, for each text its token ids,
// and for each of them the ids and log-probabilities of what may follow.
import {readFileSync} from "node:fs";
import {pathToFileURL} from "node:url";

const [folder, file] = process.argv.slice(2);
const {getLlama} = await import(pathToFileURL(`${folder}/node_modules/node-llama-cpp/dist/index.js`));
const {texts, top} = JSON.parse(readFileSync(0, "utf8"));
const llama = await getLlama({gpu: false, build: "never", logLevel: "error"});
const model = await llama.loadModel({modelPath: file});
const context = await model.createContext({contextSize: 1024, threads: 1, flashAttention: false});
const sequence = context.getSequence();

const generateNext = {logits: {filter: {tokens: [], includeTop: top}}, totalLogitWeight: true};
const answers = [];
for (const text of texts) {
    const ids = model.tokenize(text);
    if (model.tokens.shouldPrependBosToken) ids.unshift(model.tokens.bos);
    await sequence.clearHistory();
    const results = await sequence.controlledEvaluate(ids.map((id) => [id, {generateNext}]));
    answers.push({ids, next: results.map(({next}) => {
        const logits = [...next.logits].sort((a, b) => b[1] - a[1]);
        const all = logits[0][1] + Math.log(next.totalLogitWeight); // the logarithm of what the probabilities are divided by
        return {ids: logits.map(([id]) => id), logProbs: logits.map(([, logit]) => logit - all)};
    })});
}
process.stdout.write(JSON.stringify(answers), () => process.exit(0)); // the end of a process does not wait for a pipe
