// Which anchors mined which row: the pairs (h_j, j) in ascending order, one number each, by a bitonic sort
//
//   key_j = h_j pairs + j
//
// Reference: docs/math.md, "Assembled gradient". compose.wgsl finds the anchors that mined a row by binary search in
// this list.
//
// A negative of a memory bank is not a row of the batch. Its key is the largest number, and so are the keys that fill
// the list up to a power of two.
// A stage of size s merges runs of s / 2 keys: it exchanges keys at distances s / 2, s / 4 .. 1. A workgroup keeps
// CHUNK keys in its memory. With BEGIN it runs all stages up to that size. Otherwise it runs the distances below CHUNK
// of a larger stage. With ACROSS, each invocation makes one exchange at a distance of CHUNK or more. The bounds of
// loops around a barrier are constants, which every compiler accepts.
//
//   index  [pairs] h                 read
//   keys   [count] a power of two    with BEGIN written from index and sorted in chunks, otherwise sorted further
//
// Grid: one workgroup per chunk. With ACROSS: x covers count / 2 / LANES, a whole number because there are several
// chunks.

struct Params {
    pairs: u32,
    size: u32,       // of the stage; unused with BEGIN
    distance: u32,   // with ACROSS
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> index: array<u32>;
@group(0) @binding(2) var<storage, read_write> keys: array<u32>;

const LANES = 64u;
const BEGIN = true;
const ACROSS = false;
const CHUNK = 1024u;
const NONE = 0xffffffffu;
var<workgroup> held: array<u32, CHUNK>;

// The lower position of the k-th exchange at a distance, which is a power of two.
fn place(k: u32, distance: u32) -> u32 {
    return k / distance * 2u * distance + k % distance;
}

// All exchanges at a distance within the chunk, shared by the lanes; `first` is the position of the chunk's first key.
fn exchange(lane: u32, first: u32, size: u32, distance: u32) {
    for (var k = lane; k < CHUNK / 2u; k += LANES) {
        let at = place(k, distance);
        let low = held[at];
        let high = held[at + distance];
        let rising = ((first + at) & size) == 0u;
        if ((low > high) == rising) {
            held[at] = high;
            held[at + distance] = low;
        }
    }
}

fn key(j: u32) -> u32 {
    let inside = min(j, params.pairs - 1u);
    let h = index[inside];
    return select(NONE, h * params.pairs + inside, inside == j && h < params.pairs);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    if (ACROSS) {
        let at = place(group.x * LANES + lane, params.distance);
        let low = keys[at];
        let high = keys[at + params.distance];
        if ((low > high) == ((at & params.size) == 0u)) {
            keys[at] = high;
            keys[at + params.distance] = low;
        }
        return;
    }
    let first = group.x * CHUNK;
    for (var k = lane; k < CHUNK; k += LANES) {
        if (BEGIN) {
            held[k] = key(first + k);
        } else {
            held[k] = keys[first + k];
        }
    }
    workgroupBarrier();
    if (BEGIN) {
        for (var size = 2u; size <= CHUNK; size *= 2u) {
            for (var distance = size / 2u; distance > 0u; distance /= 2u) {
                exchange(lane, first, size, distance);
                workgroupBarrier();
            }
        }
    } else {
        for (var distance = CHUNK / 2u; distance > 0u; distance /= 2u) {
            exchange(lane, first, params.size, distance);
            workgroupBarrier();
        }
    }
    for (var k = lane; k < CHUNK; k += LANES) {
        keys[first + k] = held[k];
    }
}
