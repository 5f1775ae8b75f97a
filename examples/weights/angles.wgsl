// Pull and push along the angle instead of its cosine: the slopes of (theta_p^2 - theta_n^2) / pi, theta = acos s, grow as
// theta / sin(theta). A triplet counts by how much its negative is nearer than its positive, with a soft margin.
//
//   wgoal train --objective custom --weights examples/weights/angles.wgsl --param margin_angle=0.2
//
//   T = sigma(gamma (theta_p - theta_n + m))      P+ = theta_p / sin(theta_p)      P- = theta_n / sin(theta_n)

override gamma: f32 = 4.0;
override margin_angle: f32 = 0.1;   // m, in radians

// Of a cosine that rounding may have taken beyond 1, and away from -1, where theta / sin(theta) has a pole.
fn angle(s: f32) -> f32 {
    return acos(clamp(s, -0.95, 1.0));
}

fn slope(s: f32) -> f32 {
    let theta = angle(s);
    if (theta < 0.01) {
        return 1.0;
    }
    return theta / sin(theta);
}

fn triplet_weight(p: f32, n: f32) -> f32 {
    return 1.0 / (1.0 + exp(-gamma * (angle(p) - angle(n) + margin_angle)));
}

fn pair_weights(p: f32, n: f32) -> vec2f {
    return vec2f(slope(p), slope(n));
}
