-- For wrk: with KEYED=1 each request has an Idempotency-Key of its own; at the end, one line of JSON.
local keyed = os.getenv("KEYED") == "1"
local salt, sent = os.getenv("SALT") or "", 0

if keyed then
    request = function()
        sent = sent + 1
        return wrk.format(nil, nil, { ["Idempotency-Key"] = salt .. sent })
    end
end

done = function(summary, latency)
    local failed = summary.errors
    io.write(string.format(
        '{"answered": %d, "seconds": %.6f, "p50": %.3f, "p99": %.3f, "failed": %d}\n',
        summary.requests - failed.status, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
        failed.connect + failed.read + failed.write + failed.status + failed.timeout))
end
