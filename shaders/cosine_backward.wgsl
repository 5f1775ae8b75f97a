// Backward pass of the cosine of angles in turns: dt_k = -2 pi sin(2 pi t_k) g_k
//
// Reference: docs/math.md, "Random features".
//
// sin(2 pi t) is the cosine of an angle that is a quarter of a turn smaller; see cosine.wgsl.
//
//   t   [rows, cols]   read
//   g   [rows, cols]   read, the gradient at the cosines
//   dt  [rows, cols]   overwritten
//
// Grid: one workgroup per row.

struct Params {
    rows: u32,
    cols: u32,
    stride4: u32,   // vec4s in a row
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> t: array<vec4f>;
@group(0) @binding(2) var<storage, read> g: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> dt: array<vec4f>;

const LANES = 64u;
const TURN = 6.283185307;

fn wave(turns: vec4f) -> vec4f {
    let w = 0.25 - abs(turns - round(turns));
    let s = w * w;
    return w * ((((39.5367061 * s - 76.5497823) * s + 81.6010041) * s - 41.341655) * s + 6.28318516);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let start = group.x * params.stride4;
    for (var k = lane; k < params.stride4; k += LANES) {
        let at = start + k;
        let turns = t[at];
        // Whole turns are taken off first, so that the subtraction of a quarter loses nothing.
        let sine = wave(turns - round(turns) - 0.25);
        let column = 4u * k + vec4u(0u, 1u, 2u, 3u);
        dt[at] = select(vec4f(0.0), -TURN * sine * g[at], column < vec4u(params.cols));
    }
}
