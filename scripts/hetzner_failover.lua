-- Routes a failover address of Hetzner's dedicated servers to the server that holds the item.
--
-- item: the failover address. Settings: `server_ip` (this server's main address; put it under the server's
-- `config`), `user` and `password` of the Robot web service, else the variables HETZNER_USER and HETZNER_PASSWORD.
--
-- The holder asks for the route; whoever lets go changes nothing, because the next one takes it.
local DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

local function base64(text)
  local out = {}
  for at = 1, #text, 3 do
    local a, b, c = text:byte(at, at + 2)
    local n = a * 65536 + (b or 0) * 256 + (c or 0)
    for place = 3, 0, -1 do
      local digit = n // 64 ^ place % 64 + 1
      local padding = (place == 1 and b == nil) or (place == 0 and c == nil)
      table.insert(out, if padding then "=" else DIGITS:sub(digit, digit))
    end
  end
  return table.concat(out)
end

local function need(value, name)
  if value == nil or value == "" then
    error("`" .. name .. "` is missing in the settings")
  end
  return value
end

return {
  alive = function(item, config)
    local address = if type(item) == "table" then item.name else item
    local user = need(config.user or flip.env("HETZNER_USER"), "user")
    local password = need(config.password or flip.env("HETZNER_PASSWORD"), "password")
    -- `endpoint` is for trials against a server of one's own.
    local answer = flip.http({
      method = "POST",
      url = (config.endpoint or "https://robot-ws.your-server.de") .. "/failover/" .. address,
      headers = {
        authorization = "Basic " .. base64(user .. ":" .. password),
        ["content-type"] = "application/x-www-form-urlencoded",
      },
      body = "active_server_ip=" .. need(config.server_ip, "server_ip"),
    })
    if answer.status == 200 then
      return true
    end
    -- It is routed here already: that is what was wanted.
    if answer.status == 409 and answer.body:find("FAILOVER_ALREADY_ROUTED", 1, true) then
      return true
    end
    return false, `Hetzner answered {answer.status}: {answer.body}`
  end,
  down = function() end,
}
