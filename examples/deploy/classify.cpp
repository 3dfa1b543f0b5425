// Classifies a video with a network that `mdtnet export` wrote, by ONNX Runtime's C++ API alone.
//
//   SCALE="scale=256:256:force_original_aspect_ratio=increase:flags=bilinear,crop=224:224"
//   ffmpeg -i clip.mp4 -vf "$SCALE" -f rawvideo -pix_fmt rgb24 clip.rgb
//   g++ -std=c++17 -O2 classify.cpp -o classify -I ORT/include -L ORT/lib -lonnxruntime -Wl,-rpath,ORT/lib
//   ./classify best.onnx clip.rgb
//
// clip.rgb holds the frames one after the other, RGB, already scaled to the description's `short_side` (256) and
// cropped to its `size` (224); with `fps` in the description, add fps=N to the filters. Needs nlohmann/json
// (Debian: nlohmann-json3-dev) to read the description.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>
#include <onnxruntime_cxx_api.h>

using Json = nlohmann::json;

Json description_of(const Ort::Session& session) {
    Ort::AllocatorWithDefaultOptions allocator;
    auto text = session.GetModelMetadata().LookupCustomMetadataMapAllocated("mdtnet", allocator);
    if (!text) throw std::runtime_error("not written by mdtnet export");
    Json about = Json::parse(text.get());
    if (about.at("exposure") != "none" || about.at("stream"))
        throw std::runtime_error("this example changes no brightness and takes no streams");
    return about;
}

// Numbers of the T x K frames, from 0, of a video of `total` frames.
std::vector<int64_t> chosen(int64_t total, const Json& about) {
    const int64_t segments = about.at("num_segments"), frames = about.at("frames_per_segment"),
                  stride = about.at("frame_stride");
    const bool spread = about.at("sampling") == "random";  // evenly spread in a test
    const int64_t starts = spread ? total : std::max<int64_t>(total - (frames - 1) * stride, 1);
    const int64_t places = spread ? segments * frames : segments;
    std::vector<int64_t> found;
    for (int64_t place = 0; place < places; ++place)
        for (int64_t k = 0; k < (spread ? 1 : frames); ++k)
            found.push_back(std::min(starts * (2 * place + 1) / (2 * places) + k * stride, total - 1));
    return found;
}

// The chosen frames one after the other, uint8 [T, K, S, S, 3].
std::vector<uint8_t> clip_of(const std::string& path, const Json& about) {
    const int64_t size = about.at("size"), bytes = size * size * 3;
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    const int64_t length = file ? static_cast<int64_t>(file.tellg()) : 0;
    if (length == 0 || length % bytes != 0)
        throw std::runtime_error(path + ": expected RGB frames of " + std::to_string(size) + " x " +
                                 std::to_string(size) + " pixels");
    std::vector<uint8_t> clip;
    for (int64_t index : chosen(length / bytes, about)) {
        clip.resize(clip.size() + bytes);
        file.seekg(index * bytes);
        file.read(reinterpret_cast<char*>(&clip[clip.size() - bytes]), bytes);
    }
    return clip;
}

void classify(const char* network, const std::string& frames) {
    Ort::Env env(ORT_LOGGING_LEVEL_ERROR);
    Ort::Session session(env, network, Ort::SessionOptions());
    const Json about = description_of(session);
    std::vector<uint8_t> clip = clip_of(frames, about);
    const int64_t size = about.at("size");
    const std::vector<int64_t> shape{1, about.at("num_segments"), about.at("frames_per_segment"), size, size, 3};
    auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    auto input = Ort::Value::CreateTensor<uint8_t>(memory, clip.data(), clip.size(), shape.data(), shape.size());
    const char *in = "frames", *out = "probabilities";
    auto outputs = session.Run(Ort::RunOptions(), &in, &input, 1, &out, 1);
    const float* probability = outputs[0].GetTensorData<float>();

    std::vector<size_t> order(about.at("classes").size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return probability[a] > probability[b]; });
    for (size_t i = 0; i < std::min<size_t>(5, order.size()); ++i)
        std::printf("%5.1f%%  %s\n", 100 * probability[order[i]],
                    about["classes"][order[i]].get<std::string>().c_str());
}

int main(int count, char** arguments) {
    if (count != 3) {
        std::fprintf(stderr, "usage: classify NETWORK.onnx FRAMES.rgb\n");
        return 2;
    }
    try {
        classify(arguments[1], arguments[2]);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "classify: %s\n", error.what());
        return 1;
    }
}
