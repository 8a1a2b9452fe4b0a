-- Points a name of Amazon Route 53 at the server that holds the item.
--
-- item: the DNS name. Settings: `zone` (id of the hosted zone), `address` (this server's; put it under the server's
-- `config`), `ttl` (30), `type` (A, or AAAA for an address with colons). `access_key` and `secret_key`, else the
-- variables AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN of the daemon.
--
-- The holder writes the record (UPSERT); whoever lets go changes nothing, because the next one overwrites it.
local function need(value, name)
  if value == nil or value == "" then
    error("`" .. name .. "` is missing in the settings")
  end
  return value
end

local function escape(text)
  return (tostring(text):gsub("[&<>\"']", { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&apos;" }))
end

-- AWS Signature Version 4 for a request without a query.
local function sign(request, host, path, keys)
  local time = os.date("!%Y%m%dT%H%M%SZ")
  local scope = time:sub(1, 8) .. "/us-east-1/route53/aws4_request"
  local headers = { host = host, ["x-amz-date"] = time, ["x-amz-security-token"] = keys.token }
  local names = {}
  for name in headers do
    table.insert(names, name)
  end
  table.sort(names)
  local canonical = {}
  for _, name in names do
    table.insert(canonical, name .. ":" .. headers[name] .. "\n")
    request.headers[name] = headers[name]
  end
  local signed = table.concat(names, ";")
  local whole = table.concat({ request.method, path, "", table.concat(canonical), signed, flip.sha256(request.body) }, "\n")
  local text = table.concat({ "AWS4-HMAC-SHA256", time, scope, flip.sha256(whole) }, "\n")
  local key = "AWS4" .. keys.secret
  for _, part in { time:sub(1, 8), "us-east-1", "route53", "aws4_request" } do
    key = flip.hmac_sha256(key, part)
  end
  request.headers.authorization = `AWS4-HMAC-SHA256 Credential={keys.id}/{scope}, SignedHeaders={signed}, Signature={flip.hex(flip.hmac_sha256(key, text))}`
end

return {
  alive = function(item, config)
    local name = if type(item) == "table" then item.name else item
    local address = need(config.address, "address")
    local kind = config.type or (if address:find(":", 1, true) then "AAAA" else "A")
    local body = `<?xml version="1.0" encoding="UTF-8"?><ChangeResourceRecordSetsRequest xmlns="https://route53.amazonaws.com/doc/2013-04-01/"><ChangeBatch><Changes><Change><Action>UPSERT</Action><ResourceRecordSet><Name>{escape(name)}</Name><Type>{escape(kind)}</Type><TTL>{escape(config.ttl or 30)}</TTL><ResourceRecords><ResourceRecord><Value>{escape(address)}</Value></ResourceRecord></ResourceRecords></ResourceRecordSet></Change></Changes></ChangeBatch></ChangeResourceRecordSetsRequest>`
    local keys = {
      id = need(config.access_key or flip.env("AWS_ACCESS_KEY_ID"), "access_key"),
      secret = need(config.secret_key or flip.env("AWS_SECRET_ACCESS_KEY"), "secret_key"),
      token = if config.access_key then nil else flip.env("AWS_SESSION_TOKEN"),
    }
    -- `endpoint` is for trials against a server of one's own.
    local endpoint = config.endpoint or "https://route53.amazonaws.com"
    local path = "/2013-04-01/hostedzone/" .. need(config.zone, "zone") .. "/rrset"
    local request = { method = "POST", url = endpoint .. path, headers = { ["content-type"] = "application/xml" }, body = body }
    sign(request, endpoint:match("^https?://([^/]+)"), path, keys)
    local answer = flip.http(request)
    if answer.status ~= 200 then
      return false, `Route 53 answered {answer.status}: {answer.body:match("<Message>(.-)</Message>") or answer.body}`
    end
    return true
  end,
  down = function() end,
}
