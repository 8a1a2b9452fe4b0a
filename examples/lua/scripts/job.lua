-- A job is a file in the directory of the server that has it.
local function path(item, config)
  return config.directory .. "/" .. (if type(item) == "table" then item.name else item)
end

return {
  alive = function(item, config)
    local text = `{flip.node} has it, on port {config.port or "-"}\n`
    local code, _, err = flip.exec("tee", { path(item, config) }, { stdin = text })
    if code ~= 0 then
      return false, err
    end
    flip.log.info(`wrote {path(item, config)}`)
  end,
  down = function(item, config)
    flip.exec("rm", { "-f", path(item, config) })
    flip.log.info(`removed {path(item, config)}`)
  end,
}
