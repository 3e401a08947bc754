// std::format for compilers without <format> (gcc 12 and older), as far as mlx-c uses it: plain
// "{}" fields in error messages. Force-included only when the compiler has no <format>; anything
// but "{}" throws, so that a newer mlx-c with other needs is noticed by the first message it makes.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace std {

inline void gomlx_format_rest(ostringstream& out, string_view fmt) {
  if (fmt.find('{') != string_view::npos)
    throw runtime_error("format shim: fewer arguments than fields");
  out << fmt;
}

template <typename First, typename... Rest>
void gomlx_format_rest(
    ostringstream& out,
    string_view fmt,
    const First& first,
    const Rest&... rest) {
  const auto field = fmt.find("{}");
  if (field == string_view::npos)
    throw runtime_error("format shim: only plain {} fields are supported");
  out << fmt.substr(0, field) << first;
  gomlx_format_rest(out, fmt.substr(field + 2), rest...);
}

template <typename... Args>
string format(string_view fmt, const Args&... args) {
  ostringstream out;
  gomlx_format_rest(out, fmt, args...);
  return out.str();
}

} // namespace std
