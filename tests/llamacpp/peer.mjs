// llama.cpp, as the npm package node-llama-cpp has it built, for the comparison in main.go: one JSON request a line, one answer a
// line, times in milliseconds.
import {createInterface} from "node:readline";
import {getLlama} from "node-llama-cpp";

const [file, threads, sequences] = [process.argv[2], Number(process.argv[3]), 32];
const llama = await getLlama({gpu: false, build: "never", logLevel: "error"});
const model = await llama.loadModel({modelPath: file});
const context = await model.createContext({contextSize: 8192, batchSize: 512, sequences, threads});
const all = Array.from({length: sequences}, () => context.getSequence());

async function generate(sequence, tokens, n) {
    const begin = performance.now();
    let first = 0, made = 0;
    await sequence.clearHistory();
    for await (const _ of sequence.evaluate(tokens, {temperature: 0})) {
        if (++made === 1) first = performance.now();
        if (made === n) break;
    }
    const end = performance.now();
    return {first: first - begin, rest: end - first, made};
}

const jobs = {
    // The first token of a prompt and n - 1 more.
    generate: ({tokens, n}) => generate(all[0], tokens, n),
    // The same for several prompts at once.
    async parallel({prompts, n}) {
        const begin = performance.now();
        await Promise.all(prompts.map((tokens, i) => generate(all[i], tokens, n)));
        return {total: performance.now() - begin};
    },
    // Whole prompts one by one, each with what it shares with the one before it kept, for the logits behind their last token.
    async classify({prompts}) {
        const begin = performance.now();
        for (const tokens of prompts) {
            await all[0].adaptStateToTokens(tokens.slice(0, -1), false);
            const rest = tokens.slice(all[0].nextTokenIndex);
            for await (const _ of all[0].evaluate(rest, {temperature: 0})) break;
        }
        return {total: performance.now() - begin};
    }
};

console.log(JSON.stringify({ready: true, tokens: model.tokenize("ready").length}));
for await (const line of createInterface({input: process.stdin})) {
    const request = JSON.parse(line);
    console.log(JSON.stringify(await jobs[request.job](request)));
}
process.exit(0);
