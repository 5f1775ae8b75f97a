// Compiles WGSL with Tint, the compiler of Chromium browsers, and builds pipelines under WebGPU's default limits. No driver
// is needed: Dawn's null backend checks all and runs nothing.
//
//   node tint.mjs PACKAGE LIST     PACKAGE is the folder of the npm package webgpu, LIST holds a file a line
//
// Prints `== ok FILE` or `== FAIL FILE` and below it what Tint and Dawn said.

import { readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

const [folder, list] = process.argv.slice(2);
const { create } = await import(pathToFileURL(`${folder}/index.js`));
const gpu = create(['backend=null']);
const adapter = await gpu.requestAdapter();
const requiredFeatures = ['subgroups'].filter(feature => adapter.features.has(feature));
const device = await adapter.requestDevice({ requiredFeatures });

for (const file of readFileSync(list, 'utf8').split('\n').filter(Boolean)) {
    device.pushErrorScope('validation');
    const module = device.createShaderModule({ code: readFileSync(file, 'utf8') });
    const { messages } = await module.getCompilationInfo();
    const said = messages.map(m => `${m.lineNum}:${m.linePos} ${m.type}: ${m.message}`);
    if (!messages.some(m => m.type === 'error')) {
        device.createComputePipeline({ layout: 'auto', compute: { module, entryPoint: 'main' } });
    }
    const error = await device.popErrorScope();
    if (error && !messages.some(m => m.type === 'error')) {
        said.push(error.message);
    }
    console.log(`== ${error ? 'FAIL' : 'ok'} ${file}`);
    said.forEach(line => console.log(line));
}
process.exit(0);
