// Who mined whom: the pairs (h_j, j) in ascending order, one number each, by a bitonic sort      (goal-math.md section 5)
//
//   key_j = h_j pairs + j
//
// compose.wgsl finds the anchors that mined a row by halving the list. A negative beyond the batch (a memory bank's) is no
// row of it: its key, and those that fill the list up to a power of two, are the largest number.
// A stage of size s merges runs of s / 2 keys: it exchanges keys at distances s / 2, s / 4 .. 1. A workgroup keeps CHUNK keys
// in its memory: where BEGIN it makes all stages up to that size, else the distances below it of a larger stage. Where
// ACROSS, an invocation makes one exchange at a distance of CHUNK or more. Loops around a barrier are bounded by constants,
// which all compilers understand.
//
//   index  [pairs] h                 read
//   keys   [count] a power of two    where BEGIN written from index, each chunk sorted; else sorted further
//
// Grid: a workgroup a chunk, or x over count / 2 / LANES where ACROSS, which divides evenly: there are several chunks.

struct Params {
    pairs: u32,
    size: u32,       // of the stage, unless BEGIN
    distance: u32,   // where ACROSS
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

// The lower of the two places of the k-th exchange at a distance, a power of two.
fn place(k: u32, distance: u32) -> u32 {
    return k / distance * 2u * distance + k % distance;
}

// One exchange in every pair of places at a distance, by all lanes; `first` is the chunk's first key.
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
