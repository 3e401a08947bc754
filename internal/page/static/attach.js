// Text files in a message.

const largestAttachment = 200_000; // bytes

// attachFiles puts the text of files into the message.
export async function attachFiles(input, prompt, notice) {
  for (const file of input.files) {
    try {
      if (file.size > largestAttachment) throw new Error(`it has more than ${largestAttachment / 1000} kB`);
      const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
      let ticks = 3;
      for (const [run] of text.matchAll(/`+/g)) ticks = Math.max(ticks, run.length + 1);
      const fence = "`".repeat(ticks);
      prompt.value = `${prompt.value.trimEnd()}\n\n${file.name}:\n${fence}\n${text.trimEnd()}\n${fence}\n`.trimStart();
    } catch (e) {
      notice(`${file.name}: ${e instanceof TypeError ? "it is no text" : e.message}`);
    }
  }
  input.value = "";
  prompt.focus();
  prompt.scrollTop = prompt.scrollHeight;
}
