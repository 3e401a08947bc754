// Unpacks the browser, its libraries and its fonts into the folder that TMPDIR names.
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { inflate } from "@sparticuz/chromium";

const packed = join(import.meta.dirname, "node_modules", "@sparticuz", "chromium", "bin");
for (const name of readdirSync(packed)) await inflate(join(packed, name));
