//! Shortens a failing list of steps, by leaving out halves, quarters and so on of the rest.

/// The shortest list found that still fails. `fails` decides; if it returns `None`, time is up.
pub(super) async fn shrink<T: Clone>(
    steps: &[T],
    mut fails: impl AsyncFnMut(&[T]) -> Option<bool>,
) -> Vec<T> {
    let mut left = steps.to_vec();
    let mut size = left.len().div_ceil(2);
    while size > 0 {
        let (mut at, mut shorter) = (0, false);
        while at < left.len() {
            let end = (at + size).min(left.len());
            let without = [&left[..at], &left[end..]].concat();
            match fails(&without).await {
                None => return left,
                Some(true) => (left, shorter) = (without, true),
                Some(false) => at = end,
            }
        }
        if size == 1 && !shorter {
            break;
        }
        size = if size == 1 { 1 } else { size / 2 };
    }
    left
}

#[tokio::test]
async fn what_is_not_needed_is_left_out() {
    let steps: Vec<_> = (0..100).collect();
    let found = shrink(&steps, async |steps| Some([17, 18, 71].iter().all(|n| steps.contains(n)))).await;
    assert_eq!(found, [17, 18, 71]);
    let mut tries = 0;
    let found = shrink(&steps, async |steps| {
        tries += 1;
        (tries < 4).then(|| steps.contains(&99))
    });
    assert_eq!(found.await, (75..100).collect::<Vec<_>>());
}
