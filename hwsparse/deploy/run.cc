// Runs a compiled network on a device, with TVM's small runtime and nothing else of hwsparse.
//
//   run DIRECTORY INPUTS OUTPUTS [THREADS]
//
// DIRECTORY holds library.so, weights.safetensors and library.json; INPUTS is a safetensors file with an array for each
// input, by name; OUTPUTS is written in the same way. Compiled on the device, or for it:
//
//   c++ -std=c++17 -O2 run.cc -o run -I INCLUDE -I DLPACK -L DIRECTORY \
//       -Wl,--no-as-needed -ltvm_runtime -ltvm_ffi -Wl,-rpath,'$ORIGIN'
//
// `tvm-ffi-config --includedir` and `--dlpack-includedir` name the two folders of headers, which PyPI's apache-tvm-ffi
// carries. In a program of your own, keep a `Network` and call `run` as often as you like, from one thread.

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/map.h>
#include <tvm/ffi/container/shape.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/json.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>
#include <iostream>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace ffi = tvm::ffi;
using Tensors = std::map<std::string, ffi::Tensor>;

namespace {

constexpr size_t kAlignment = 64;  // what compiled code counts on
constexpr DLDevice kCPU{kDLCPU, 0};
constexpr int kPooled = 2;  // TVM's allocator that keeps memory from one call to the next

struct Allocator {
  void AllocData(DLTensor* tensor) {
    size_t bytes = ffi::GetDataSize(*tensor);
    tensor->data = std::aligned_alloc(kAlignment, (bytes / kAlignment + 1) * kAlignment);
    if (tensor->data == nullptr) throw std::bad_alloc();
  }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

ffi::Tensor make_tensor(const std::vector<int64_t>& shape, const std::string& dtype) {
  return ffi::Tensor::FromNDAlloc(Allocator(), ffi::ShapeView(shape.data(), shape.size()),
                                  ffi::StringToDLDataType(dtype), kCPU);
}

int64_t bytes_of(const ffi::Tensor& tensor) {
  return static_cast<int64_t>(ffi::GetDataSize(*tensor.GetDLTensorPtr()));
}

std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": cannot be read");
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

ffi::json::Object parse(const std::string& text, const std::string& where) {
  ffi::String trouble;
  ffi::json::Value value = ffi::json::Parse(text, &trouble);
  auto object = value.as<ffi::json::Object>();
  if (!object.has_value()) throw std::runtime_error(where + ": not a JSON object");
  return *object;
}

template <typename T>
T field(const ffi::json::Object& object, const char* name) {
  return object.at(ffi::String(name)).cast<T>();
}

std::vector<int64_t> shape_of(const ffi::json::Object& object) {
  std::vector<int64_t> shape;
  for (const ffi::Any& size : field<ffi::json::Array>(object, "shape")) shape.push_back(size.cast<int64_t>());
  return shape;
}

// Names of types as safetensors has them, beside TVM's.
const std::map<std::string, std::string> kTypes = {
    {"F64", "float64"}, {"F32", "float32"}, {"F16", "float16"}, {"I64", "int64"},   {"I32", "int32"}, {"I16", "int16"},
    {"I8", "int8"},     {"U64", "uint64"},  {"U32", "uint32"},  {"U16", "uint16"}, {"U8", "uint8"},  {"BOOL", "bool"}};

// A safetensors file: the length of a JSON text in 8 bytes, the text, and after it the bytes of the arrays.
Tensors read_tensors(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  uint64_t length = 0;
  if (!file.read(reinterpret_cast<char*>(&length), sizeof length) || length > (100u << 20))
    throw std::runtime_error(path + ": not a safetensors file");
  std::string text(length, '\0');
  if (!file.read(text.data(), static_cast<std::streamsize>(length))) throw std::runtime_error(path + ": cut off");
  Tensors tensors;
  for (const auto& [key, value] : parse(text, path)) {
    std::string name = key.cast<std::string>();
    if (name == "__metadata__") continue;
    auto entry = value.cast<ffi::json::Object>();
    auto type = kTypes.find(field<std::string>(entry, "dtype"));
    if (type == kTypes.end()) throw std::runtime_error(path + ": " + name + ": of a type that is not known here");
    ffi::Tensor tensor = make_tensor(shape_of(entry), type->second);
    auto offsets = field<ffi::json::Array>(entry, "data_offsets");
    int64_t begin = offsets[0].cast<int64_t>(), size = offsets[1].cast<int64_t>() - begin;
    if (begin < 0 || size != bytes_of(tensor))
      throw std::runtime_error(path + ": " + name + ": not as many bytes as its shape says");
    file.seekg(static_cast<std::streamoff>(sizeof length + length) + begin);
    if (size > 0 && !file.read(static_cast<char*>(tensor.data_ptr()), size)) throw std::runtime_error(path + ": cut off");
    tensors.emplace(name, tensor);
  }
  return tensors;
}

void write_tensors(const std::string& path, const Tensors& tensors) {
  ffi::json::Object header;
  int64_t end = 0;
  for (const auto& [name, tensor] : tensors) {
    ffi::json::Object entry;
    std::string dtype = ffi::DLDataTypeToString(tensor.dtype());
    for (const auto& [short_name, long_name] : kTypes)
      if (long_name == dtype) entry.Set(ffi::String("dtype"), ffi::String(short_name));
    ffi::json::Array shape, offsets;
    for (int64_t size : tensor.shape()) shape.push_back(size);
    offsets.push_back(end);
    offsets.push_back(end += bytes_of(tensor));
    entry.Set(ffi::String("shape"), shape);
    entry.Set(ffi::String("data_offsets"), offsets);
    header.Set(ffi::String(name), entry);
  }
  std::string text = ffi::json::Stringify(header);
  text.append((8 - text.size() % 8) % 8, ' ');
  uint64_t length = text.size();
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(&length), sizeof length);
  file << text;
  for (const auto& [name, tensor] : tensors)
    file.write(static_cast<const char*>(tensor.data_ptr()),
               bytes_of(tensor));
  if (!file.flush()) throw std::runtime_error(path + ": cannot be written");
}

// Refuses code for another processor, of which the system's loader says that there is no such file.
void require_own(const std::string& path) {
#if defined(__aarch64__)
  constexpr int kHere = 183;
#elif defined(__x86_64__)
  constexpr int kHere = 62;
#else
  return;
#endif
  unsigned char start[20] = {};
  std::ifstream file(path, std::ios::binary);
  if (!file.read(reinterpret_cast<char*>(start), sizeof start)) throw std::runtime_error(path + ": cannot be read");
  if (start[18] + 256 * start[19] != kHere)
    throw std::runtime_error(path + " is compiled for another processor than this program");
}

// A compiled network in memory.
class Network {
 public:
  Network(const std::string& directory, int threads) {
    auto description = parse(read_text(directory + "/library.json"), directory + "/library.json");
    inputs_ = field<ffi::json::Array>(description, "inputs");
    outputs_ = field<ffi::json::Array>(description, "outputs");
    Tensors weights = read_tensors(directory + "/weights.safetensors");
    for (const ffi::Any& name : field<ffi::json::Array>(description, "parameters")) {
      auto found = weights.find(name.cast<std::string>());
      if (found == weights.end()) throw std::runtime_error(directory + ": weights are missing");
      parameters_.push_back(found->second);
    }
    require_own(directory + "/library.so");
    try {
      load(directory + "/library.so", threads);
    } catch (const std::exception& error) {
      auto version = description.Get(ffi::String("tvm")).value_or(ffi::Any(ffi::String("?"))).cast<std::string>();
      std::string said = error.what();
      while (!said.empty() && said.back() == '\n') said.pop_back();
      throw std::runtime_error(said + "; library.so was compiled by TVM " + version +
                               ": libtvm_runtime.so and libtvm_ffi.so must be of that version");
    }
  }

  // One inference. An input is as `library.json` says, or an error.
  Tensors run(const Tensors& given) const {
    std::vector<ffi::AnyView> arguments;
    for (const ffi::Any& item : inputs_) {
      auto port = item.cast<ffi::json::Object>();
      std::string name = field<std::string>(port, "name"), dtype = field<std::string>(port, "dtype");
      auto found = given.find(name);
      if (found == given.end()) throw std::runtime_error("input " + name + " is missing");
      std::vector<int64_t> wanted = shape_of(port);
      ffi::ShapeView shape = found->second.shape();
      bool fits = std::vector<int64_t>(shape.begin(), shape.end()) == wanted &&
                  std::string(ffi::DLDataTypeToString(found->second.dtype())) == dtype;
      if (!fits) throw std::runtime_error("input " + name + " is of another shape or type than library.json says");
      arguments.emplace_back(found->second);
    }
    for (const ffi::Tensor& parameter : parameters_) arguments.emplace_back(parameter);
    ffi::Any result;
    main_.CallPacked(arguments.data(), static_cast<int32_t>(arguments.size()), &result);
    Tensors outputs;
    for (size_t at = 0; at < outputs_.size(); ++at) {
      auto name = field<std::string>(outputs_[at].cast<ffi::json::Object>(), "name");
      outputs.emplace(name, outputs_.size() == 1 ? result.cast<ffi::Tensor>()
                                                 : result.cast<ffi::Array<ffi::Any>>()[at].cast<ffi::Tensor>());
    }
    return outputs;
  }

 private:
  void load(const std::string& path, int threads) {
    ffi::Function::GetGlobalRequired("runtime.config_threadpool")(1, threads);
    ffi::Module library = ffi::Module::LoadFromFile(path);
    auto machine = function(library, "vm_load_executable")().cast<ffi::Module>();
    function(machine, "vm_initialization")(static_cast<int>(kCPU.device_type), kCPU.device_id, kPooled);
    main_ = function(machine, "main");
    library_ = library, machine_ = machine;
  }

  static ffi::Function function(const ffi::Module& module, const char* name) {
    ffi::Optional<ffi::Function> found = module->GetFunction(name, true);
    if (!found.has_value()) throw std::runtime_error(std::string("not a compiled network: no ") + name);
    return *found;
  }

  ffi::json::Array inputs_, outputs_;
  std::vector<ffi::Tensor> parameters_;
  ffi::ObjectRef library_, machine_;  // whose code `main_` is
  ffi::Function main_;
};

}  // namespace

int main(int count, char** words) {
  if (count < 4 || count > 5) {
    std::cerr << "usage: run DIRECTORY INPUTS OUTPUTS [THREADS]\n";
    return 2;
  }
  setenv("TVM_BIND_THREADS", "0", 0);  // otherwise TVM binds this thread to the first CPU
  try {
    Network network(words[1], count > 4 ? std::atoi(words[4]) : 1);
    write_tensors(words[3], network.run(read_tensors(words[2])));
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
