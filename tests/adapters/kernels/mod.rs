//! Every kernel, in every variant, on every device, against its f64 reference.

mod bench;
mod blocks;
mod entries;
mod fields;
mod local;
mod matmul;
mod positives;
mod rows;
mod steps;

use crate::common::Suite;

pub fn tests(suite: &mut Suite) {
    suite.each("entries", entries::entries);
    suite.each("matmul", matmul::matmul);
    suite.each_with_subgroups("matmul_subgroups", matmul::matmul_subgroups);
    suite.each("l2norm", rows::l2norm);
    suite.each("l2norm_backward", rows::l2norm_backward);
    suite.each("column_sum", rows::column_sum);
    suite.each("compose", rows::compose);
    suite.each("compose_bank", rows::compose_bank);
    suite.each("mined_order", rows::mined_order);
    suite.each("ranks", rows::ranks);
    suite.each("ranks_by_hand", rows::ranks_by_hand);
    suite.each("hardest", blocks::hardest);
    suite.each("relative", blocks::relative);
    suite.each("next_hardest", blocks::next_hardest);
    suite.each("dense_sum", blocks::dense_sum);
    suite.each("log_sum_exp", blocks::log_sum_exp);
    suite.each("dense_field", fields::dense_field);
    suite.each("accumulate", steps::accumulate);
    suite.each("blend", steps::blend);
    suite.each("neighbourhood", rows::neighbourhood);
    suite.each("infonce", fields::infonce);
    suite.each("siglip", fields::siglip);
    suite.each("exponential_sum", blocks::exponential_sum);
    suite.each("exponential_field", fields::exponential_field);
    suite.each("positives", positives::positives);
    suite.each("positive_field", positives::positive_field);
    suite.each("weights", fields::weights);
    suite.each("custom_weights", fields::custom_weights);
    suite.each("sum_squares", steps::sum_squares);
    suite.each("record", steps::record);
    suite.each("adamw", steps::adamw);
    suite.each("sgd", steps::sgd);
    suite.each("widen", steps::widen);
    suite.each("ceiling", steps::ceiling);
    suite.each("gru", local::gru);
    suite.each("gru_backward", local::gru_backward);
    suite.each("gpo_weights", local::gpo_weights);
    suite.each("gpo_weights_backward", local::gpo_weights_backward);
    suite.each("gpo_order", local::gpo_order);
    suite.each("gpo", local::gpo);
    suite.each("gpo_backward", local::gpo_backward);
    suite.each("gpo_dots", local::gpo_dots);
    suite.each("batch_norm", local::batch_norm);
    suite.each("batch_norm_backward", local::batch_norm_backward);
    suite.each("guard", bench::guard);
}
