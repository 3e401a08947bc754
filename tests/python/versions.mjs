// node versions.mjs FOLDER ROOT SITE-PACKAGES: runs versions.py with the Pyodide in a folder with node_modules.
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, root, packages] = process.argv.slice(2).map((path) => resolve(path));
const { loadPyodide } = await import(pathToFileURL(join(folder, "node_modules", "pyodide", "pyodide.mjs")));
const python = await loadPyodide({ env: { MSGPACK_PUREPYTHON: "1", HOME: "/" } });
for (const [at, from] of [["/root", root], ["/packages", packages]]) {
  python.FS.mkdirTree(at);
  python.FS.mount(python.FS.filesystems.NODEFS, { root: from }, at);
}
python.runPython(`
import runpy, sys
sys.path.append("/packages")
sys.argv = ["versions.py", "/root"]
runpy.run_path("/root/tests/python/versions.py", run_name="__main__")
`);
