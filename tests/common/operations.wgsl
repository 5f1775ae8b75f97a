// A weight file with every kind of operation, statement and guard that src/objective/custom writes for devices.

override g: f32 = 1.5;
override h: f32 = g * 2.0;
const D: vec2f = vec2f(1.0, 0.5);
alias number = f32;

fn whole(k: i32, m: i32, u: u32) -> number {
    var a = vec3i(k, m, 5) / vec3i(m - 3, k - k, k);
    a[m] = k % (m - 3);
    a[u] += abs(k) + clamp(k, 5, -5) + min(k, m) + sign(m) + dot(vec2i(k, m), vec2i(m, 2));
    let v = vec2u(u, 7u) % vec2u(u - 17u, u - u);
    let shifted = (k << u) + (m >> u) + i32(v.x / (u - 3u)) + (~k ^ m) + (k & 6) + (m | 1);
    return f32(a.x + a[k] + shifted) + f32(u << u) - f32(-k);
}

fn branches(x: f32) -> f32 {
    var sum = h;
    var unset: f32;
    switch i32(x * 8.0) {
        case 0, 1: { sum += 1.0; }
        case -3, default: { if (x > 0.7) { break; } sum = max(sum, x); }
    }
    switch u32(x * 8.0) { case 2u: { return 2.0; } default: {} }
    for (var i = 0; i < 4; i++) {
        var fresh: f32;
        if (i == 2) { continue; }
        fresh += x;
        unset += fresh;
    }
    var turns = 0;
    loop {
        if (turns > 6) { break; }
        turns++;
        continuing { sum *= 0.5; break if turns > 5; }
    }
    while (sum > 1.0) { sum *= 0.5; }
    if (x > 0.5 && unset > 0.0 || !(sum < x)) { return sum; } else { return unset + f32(turns); }
}

fn early(x: f32) -> f32 {
    loop {
        if (x < 2.0) { return x; }
        if (x > 9.0) { break; }
    }
    return 9.0;
}

fn functions(p: f32, n: f32) -> vec4f {
    let near = smoothstep(vec2f(0.0), vec2f(1.0), vec2f(p, n)) + smoothstep(vec2f(1.0), vec2f(0.0), vec2f(n, p));
    let bent = tanh(vec2f(p, n) * 50.0) + sinh(p) + cosh(n) + asinh(p) + acosh(1.5 + n * n) + atanh(p * 0.4);
    let round = floor(p) + ceil(n) + trunc(p) + round(n) + fract(p) + sign(n) + step(p, n) + p % 0.375;
    let power = exp(p) + exp2(n) + log(3.0 + p) + log2(3.0 + n) + pow(n * n + 0.1, 2.5) + sqrt(p * p) + inverseSqrt(n * n + 1.0);
    let angle = sin(p) + cos(n) + tan(p * 0.5) + asin(p * 0.3) + acos(n * 0.3) + atan(p) + atan2(p, n + 3.0);
    let vector = length(vec3f(p, n, 1.0)) + distance(near, bent) + normalize(vec2f(p, 1.0)).x + dot(near, bent.yx);
    let mixed = mix(p, n, 0.25) + fma(p, n, 1.0) + saturate(p) + clamp(n, 0.5, -0.5) + degrees(p) + radians(n) + abs(p);
    let chosen = select(near, bent, vec2f(p, n) < D) + select(vec2f(0.0), vec2f(1.0), all(near == bent) != any(near > bent));
    return vec4f(round + power, angle + vector, mixed, chosen.x).wzyx;
}

fn triplet_weight(p: f32, n: f32) -> f32 {
    let k = vec2i(vec2f(p, n) * 8.0);
    return 0.5 + 1e-6 * (whole(k.x, k.y, u32(n * 8.0 + 16.0)) + f32(bool(k.x)) + f32(bool(p)));
}

fn pair_weights(p: f32, n: f32) -> vec2f {
    let f = functions(p, n);
    return vec2f(f.x + f.y, f.z * 0.01 + f.w) + vec2f(branches(p), early(n));
}
