// The contents of files that people drop or choose.

// All files of a dropped folder, with their paths.
async function walk(entry) {
    if (entry.isFile) {
        const file = await new Promise((done, failed) => entry.file(done, failed));
        return [{ path: entry.fullPath, file }];
    }
    const reader = entry.createReader();
    const all = [];
    for (;;) {
        // Each call gives a part of the entries; the last gives none.
        const some = await new Promise((done, failed) => reader.readEntries(done, failed));
        if (some.length === 0) {
            return all;
        }
        for (const inner of some) {
            all.push(...(await walk(inner)));
        }
    }
}

export async function dropped(transfer) {
    // The entries must be taken before the first wait.
    const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    const files = entries.length ? (await Promise.all(entries.map(walk))).flat() : [...transfer.files].map((file) => ({ path: file.name, file }));
    const folder = entries.length === 1 && entries[0].isDirectory ? entries[0].name : null;
    return { name: folder ?? files[0]?.path ?? "your files", files };
}

export function chosen(input) {
    const files = [...input.files].map((file) => ({ path: file.webkitRelativePath || file.name, file }));
    const name = files[0]?.path.split("/")[0] ?? "your files";
    return { name, files };
}

const KNOWN = /\.(npy|safetensors|txt|npz|parquet|arrow|feather|json|pt)$/;

// Names and bytes in turn, as the worker takes them. Files of no known kind, such as pictures, are not read.
export async function contents(files) {
    const all = [];
    for (const { path, file } of files.filter(({ path }) => KNOWN.test(path))) {
        try {
            all.push(path, new Uint8Array(await file.arrayBuffer()));
        } catch (error) {
            const advice = "choose it again, or use the command line if it has more than 2 GB";
            throw { kind: "data", message: `${path}: expected a file that the browser can read, found ${error.message}; ${advice}` };
        }
    }
    return all;
}

const EXAMPLE = ["images.npy", "texts.npy", "text_to_image.npy", "split_train.npy", "split_val.npy", "split_test.npy", "captions.txt", "image_names.txt"];

// The dataset that comes with the page.
export async function example() {
    const read = async (name) => {
        const answer = await fetch(`clipart-mini/${name}`);
        if (!answer.ok) {
            throw { kind: "data", message: `clipart-mini/${name}: expected a file beside this page, found status ${answer.status}; build the page again with scripts/web` };
        }
        return [name, new Uint8Array(await answer.arrayBuffer())];
    };
    return (await Promise.all(EXAMPLE.map(read))).flat();
}

// Saves bytes or a text as a file.
export function save(name, content, type) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
