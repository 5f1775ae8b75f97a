// Log-sum-exp of every anchor's similarities over the temperature, with what its targets hold    (vse-models.md section 4)
//
//   z = s / t      state = (max z, sum of e^(z - max), sum of z over the targets, number of targets)
//
// Targets: the anchor's own pair; with same_image = 1 all pairs of its image. With same_image = 2 the other pairs of the
// image are left out altogether. Blocks and strides as in hardest.wgsl; a later block goes on from what is stored.
//
//   similarity   block of S                      read
//   ids          [pairs] image of each pair      read
//   temperature  [1] t                           read
//   state        [pairs]
//
// Grid: one workgroup an anchor of the block.

struct Params {
    anchors: u32,
    candidates: u32,
    anchor_stride: u32,
    candidate_stride: u32,
    anchor_offset: u32,
    candidate_offset: u32,
    same_image: u32,   // 0 negatives, 1 targets, 2 left out
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> similarity: array<f32>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;
@group(0) @binding(3) var<storage, read> temperature: array<f32>;
@group(0) @binding(4) var<storage, read_write> state: array<vec4f>;

const LANES = 64u;
const NOTHING = -3.4e38;   // below every similarity
var<workgroup> highest: array<f32, LANES>;
var<workgroup> partial: array<vec3f, LANES>;

// 0 negative, 1 target, 2 left out
fn role(anchor: u32, candidate: u32) -> u32 {
    if (candidate == anchor) {
        return 1u;
    }
    if (params.same_image == 0u) {
        return 0u;
    }
    return select(0u, params.same_image, ids[candidate] == ids[anchor]);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let anchor = group.x + params.anchor_offset;
    let start = group.x * params.anchor_stride;
    let rate = 1.0 / temperature[0];
    var top = NOTHING;
    for (var c = lane; c < params.candidates; c += LANES) {
        if (role(anchor, c + params.candidate_offset) != 2u) {
            top = max(top, similarity[start + c * params.candidate_stride] * rate);
        }
    }
    highest[lane] = top;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            highest[lane] = max(highest[lane], highest[lane + half]);
        }
        workgroupBarrier();
    }
    var earlier = vec4f(NOTHING, 0.0, 0.0, 0.0);
    if (params.candidate_offset != 0u) {
        earlier = state[anchor];
    }
    top = max(highest[0], earlier.x);
    var sum = vec3f(0.0);
    for (var c = lane; c < params.candidates; c += LANES) {
        let part = role(anchor, c + params.candidate_offset);
        let z = similarity[start + c * params.candidate_stride] * rate;
        if (part != 2u) {
            sum.x += exp(max(z - top, -87.0));
        }
        if (part == 1u) {
            sum += vec3f(0.0, z, 1.0);
        }
    }
    partial[lane] = sum;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            partial[lane] += partial[lane + half];
        }
        workgroupBarrier();
    }
    if (lane == 0u) {
        let kept = earlier.y * exp(max(earlier.x - top, -87.0));
        state[anchor] = vec4f(top, partial[0].x + kept, partial[0].y + earlier.z, partial[0].z + earlier.w);
    }
}
