// Marks pairs of a strip of similarities as neither positive nor negative: S_ij = NOTHING
//
// Reference: docs/math.md, "Equal captions and further pairs".
//
// Kernels that read S treat what is below LEFT_OUT as absent.
//
//   positions   [2 (first + count)] rows i of S and columns j, in turn   read
//   similarity  rows row_offset.. of S                                   updated
//
// Grid: any number of workgroups; each takes a share of the positions.

struct Params {
    first: u32,        // the strip's first position
    count: u32,
    stride: u32,       // floats in a row of similarity
    row_offset: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> positions: array<u32>;
@group(0) @binding(2) var<storage, read_write> similarity: array<f32>;

const LANES = 64u;
const NOTHING = -3.4e38;   // below every similarity

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) lane: u32) {
    let share = (params.count + groups.x - 1u) / groups.x;
    let end = min((group.x + 1u) * share, params.count);
    for (var k = group.x * share + lane; k < end; k += LANES) {
        let at = 2u * (params.first + k);
        similarity[(positions[at] - params.row_offset) * params.stride + positions[at + 1u]] = NOTHING;
    }
}
