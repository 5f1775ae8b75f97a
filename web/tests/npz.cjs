// Reads the .npz files of tests/golden.
const fs = require("node:fs");
const zlib = require("node:zlib");

// The arrays of a file by name, as numbers.
exports.read = (path) => {
    const bytes = fs.readFileSync(path);
    const end = bytes.lastIndexOf(Buffer.from("PK\x05\x06", "latin1"));
    const arrays = {};
    let at = bytes.readUInt32LE(end + 16);
    for (let k = 0; k < bytes.readUInt16LE(end + 10); k++) {
        const [method, size, name] = [bytes.readUInt16LE(at + 10), bytes.readUInt32LE(at + 20), bytes.readUInt16LE(at + 28)];
        const [more, comment, local] = [bytes.readUInt16LE(at + 30), bytes.readUInt16LE(at + 32), bytes.readUInt32LE(at + 42)];
        const start = local + 30 + bytes.readUInt16LE(local + 26) + bytes.readUInt16LE(local + 28);
        const packed = bytes.subarray(start, start + size);
        const key = bytes.toString("utf8", at + 46, at + 46 + name).replace(/\.npy$/, "");
        arrays[key] = values(method === 0 ? packed : zlib.inflateRawSync(packed), key);
        at += 46 + name + more + comment;
    }
    return arrays;
};

function values(npy, key) {
    const start = 10 + npy.readUInt16LE(8);
    const header = npy.toString("latin1", 10, start);
    const type = /'descr': '<(\w+)'/.exec(header)?.[1];
    const readers = { f4: ["readFloatLE", 4], f8: ["readDoubleLE", 8], i8: ["readBigInt64LE", 8] };
    if (!readers[type] || /'fortran_order': True/.test(header)) {
        throw new Error(`${key}: ${header}`);
    }
    const [read, size] = readers[type];
    const found = [];
    for (let at = start; at < npy.length; at += size) {
        found.push(Number(npy[read](at)));
    }
    found.shape = /'shape': \(([^)]*)\)/.exec(header)[1].split(",").map((n) => n.trim()).filter(Boolean).map(Number);
    return found;
}
