# A template: packer/formula.py fills in what stands between @ signs when a release is made.
class Mlxone < Formula
  desc "Runs, serves and trains language models on Apple's MLX"
  homepage "@REPOSITORY@"
  version "@VERSION@"
  license "MIT"

  on_macos do
    depends_on arch: :arm64 # MLX computes on Apple silicon
    depends_on macos: :sequoia # the system the release is built on, see docs/releasing.md
    on_arm do
      url "@DOWNLOADS@/v@VERSION@/mlxone-@VERSION@-macos-arm64"
      sha256 "@SHA256_MACOS_ARM64@"
    end
  end

  on_linux do
    on_intel do
      url "@DOWNLOADS@/v@VERSION@/mlxone-@VERSION@-linux-x86_64"
      sha256 "@SHA256_LINUX_X86_64@"
    end
    on_arm do
      url "@DOWNLOADS@/v@VERSION@/mlxone-@VERSION@-linux-arm64"
      sha256 "@SHA256_LINUX_ARM64@"
    end
  end

  def install
    bin.install Dir["mlxone-*"].first => "mlxone"
    chmod 0755, bin/"mlxone"
    # Its first start unpacks: here into the build's own folder, which goes with the build.
    ENV["MLXONE_HOME"] = buildpath/"home"
    generate_completions_from_executable(bin/"mlxone", "completion", shells: [:bash, :zsh, :fish])
  end

  def caveats
    <<~EOS
      Before you uninstall, `mlxone uninstall` removes what it unpacked into ~/.cache/mlxone.
    EOS
  end

  service do
    run [opt_bin/"mlxone", "serve"]
    keep_alive crashed: true
    log_path var/"log/mlxone.log"
    error_log_path var/"log/mlxone.log"
  end

  test do
    ENV["MLXONE_HOME"] = testpath/"home"
    assert_match version.to_s, shell_output("#{bin}/mlxone --version")
    assert_match "SmolLM2", shell_output("#{bin}/mlxone ls")
    answer = shell_output("#{bin}/mlxone run --temperature 0 --max-tokens 12 'Name the capital of France.'")
    assert_match "Paris", answer
  end
end
