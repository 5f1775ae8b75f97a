//! The size of a dataset before training.

use super::*;

#[test]
fn a_summary_counts_images_captions_and_splits() {
    let dir = write(&good("<f4", "<i8"));
    let summary = Dataset::open(dir.path()).unwrap().summary();
    assert_eq!((summary.images.items, summary.images.width, summary.images.local_width), (N, Some(P), None));
    assert_eq!((summary.texts.items, summary.texts.width, summary.texts.local_rows), (M, Some(Q), None));
    let captions = summary.captions_per_image;
    assert_eq!((captions.min, captions.max, summary.uncaptioned), (1, 3, 0));
    assert!((captions.mean - 13.0 / 7.0).abs() < 1e-12);
    let lines = "images: 7, 5 wide\ncaptions: 13, 3 wide; 1 to 3 per image, mean 1.9\n\
                 splits: train 4 images with 9 captions, val 1 image with 1 caption, \
                 test 1 image with 2 captions; 1 image in none of them";
    assert_eq!(summary.to_string(), lines);
    let json = serde_json::to_value(&summary).unwrap();
    assert_eq!((&json["splits"][2]["name"], &json["images"]["width"]), (&"test".into(), &P.into()));
    let alone = Dataset::open_for(dir.path(), &[Split::Test]).unwrap().summary();
    assert_eq!((alone.splits.len(), alone.in_no_split), (1, 6));
    assert!(
        Dataset::open_for(dir.path(), &[]).unwrap().summary().to_string().ends_with("splits: none opened")
    );
}

#[test]
fn a_summary_counts_regions_and_images_without_captions() {
    let mut files = good("<f4", "<i8");
    files.insert("image_regions.npy", npy("<f4", &[16, 2], &floats("<f4", &features(16, 2))));
    files.insert("region_offsets.npy", ids("<i8", &[0, 1, 3, 6, 10, 12, 14, 16]));
    // Image 5 loses its caption.
    files.insert(
        "text_to_image.npy",
        ids("<i8", &TEXT_TO_IMAGE.map(|image| if image == 5 { 4 } else { image })),
    );
    files.insert("split_val.npy", ids("<i8", &[4]));
    let dir = write(&files);
    let summary = Dataset::open(dir.path()).unwrap().summary();
    let rows = summary.images.local_rows.unwrap();
    assert_eq!((rows.min, rows.max, summary.images.local_width), (1, 4, Some(2)));
    assert_eq!((summary.captions_per_image.min, summary.uncaptioned), (0, 1));
    assert!(
        summary
            .to_string()
            .starts_with("images: 7, 5 wide; 1 to 4 regions each, 2 wide\ncaptions: 13, 3 wide; 0 to")
    );
}
