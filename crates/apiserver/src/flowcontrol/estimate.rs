//! How many seats a request takes (`util/flowcontrol/request`). Pure.

use crate::query::Query;
use crate::route::RequestInfo;

/// Objects a seat stands for.
const OBJECTS: usize = 100;
/// The most seats of one request.
const MAX_SEATS: u32 = 10;

/// The seats of a request. `stored` tells how many objects of the resource there are.
pub fn seats(request: &RequestInfo, query: &Query, stored: impl FnOnce() -> usize) -> u32 {
    let lists = request.verb == "list"
        || (request.verb == "watch"
            && (query.flag("sendInitialEvents") || matches!(query.text("resourceVersion"), "" | "0")));
    if !request.is_resource || !lists {
        return 1;
    }
    if !request.name.is_empty() {
        // By name: one object.
        return 1;
    }
    let stored = stored();
    let limit = query.text("limit").parse::<usize>().ok().filter(|l| *l > 0).unwrap_or(usize::MAX);
    let selects = !query.text("labelSelector").is_empty() || !query.text("fieldSelector").is_empty();
    // What is passed over costs, too.
    let objects = if selects { stored } else { stored.min(limit) };
    u32::try_from(objects.div_ceil(OBJECTS)).unwrap_or(MAX_SEATS).clamp(1, MAX_SEATS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::route;

    #[test]
    fn lists_take_seats_by_their_size() {
        let check = |url: &str, stored: usize, expected: u32| {
            let (path, query) = url.split_once('?').unwrap_or((url, ""));
            let query = Query::parse(query);
            let info = route(&http::Method::GET, path, &query).expect("routed");
            assert_eq!(seats(&info, &query, || stored), expected, "{url}");
        };
        check("/api/v1/pods", 0, 1);
        check("/api/v1/pods", 350, 4);
        check("/api/v1/pods", 100_000, 10);
        check("/api/v1/pods?limit=100", 100_000, 1);
        check("/api/v1/pods?limit=100&labelSelector=a", 500, 5);
        check("/api/v1/namespaces/x/pods/p", 100_000, 1);
        check("/api/v1/pods?fieldSelector=metadata.name%3Dp", 100_000, 1);
        check("/api/v1/pods?watch=1", 400, 4);
        check("/api/v1/pods?watch=1&resourceVersion=5", 400, 1);
        check("/healthz", 400, 1);
    }
}
