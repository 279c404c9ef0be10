using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Text.RegularExpressions;
using static Gateway.Client.Tests.Suite;

namespace Gateway.Client.Tests
{
    /// <summary>Tests of the package as Unity sees it.</summary>
    internal static class PackageTests
    {
        private const string Root = "client/csharp";
        private const string Meta = ".meta";

        public static void Run(Suite suite)
        {
            suite.Test("each asset has its .meta file, and each of these has its asset", MetaFiles);
            suite.Test("each .meta file has a guid of its own, and the importer of its asset", Importers);
            suite.Test("the example of the README is the sample of the package", Example.IsThatOfTheReadme);
        }

        // Unity writes the .meta files that are missing. It cannot do so in a package that comes from a Git URL or a
        // tarball, and ignores the assets there. To add an asset, copy the .meta file of one of its kind, and change
        // the guid.

        private static void MetaFiles()
        {
            var files = Assets(Root).ToLookup(path => path.EndsWith(Meta));
            Same(".meta files", Sorted(files[true]), Sorted(files[false].Select(path => path + Meta)));
        }

        private static void Importers()
        {
            var guids = new HashSet<string>();
            foreach (var path in Assets(Root).Where(path => path.EndsWith(Meta)))
            {
                var asset = path.Substring(0, path.Length - Meta.Length);
                var text = File.ReadAllText(path);
                var guid = Regex.Match(text, "^fileFormatVersion: 2\nguid: ([0-9a-f]{32})\n").Groups[1].Value;
                Same("a new guid in " + path, guid != "" && guids.Add(guid), true);
                Same("folder " + path, text.Contains("\nfolderAsset: yes\n"), Directory.Exists(asset));
                Same("importer in " + path, Regex.Match(text, "^\\w+Importer:$", RegexOptions.Multiline).Value,
                    ImporterOf(asset) + ":");
            }
        }

        private static string ImporterOf(string asset)
        {
            if (Path.GetFileName(asset) == "package.json") return "PackageManifestImporter";
            switch (Path.GetExtension(asset))
            {
                case ".cs": return "MonoImporter";
                case ".asmdef": return "AssemblyDefinitionImporter";
                case ".md": return "TextScriptImporter";
                default: return "DefaultImporter";
            }
        }

        /// <summary>
        /// Returns the files and folders that Unity takes for assets. Others end with ~ or begin with a dot.
        /// </summary>
        private static IEnumerable<string> Assets(string folder)
        {
            foreach (var path in Directory.GetFileSystemEntries(folder))
            {
                var name = Path.GetFileName(path);
                if (name.EndsWith("~") || name.StartsWith(".")) continue;
                yield return path;
                if (!Directory.Exists(path)) continue;
                foreach (var inner in Assets(path)) yield return inner;
            }
        }

        private static List<object> Sorted(IEnumerable<string> paths)
        {
            return paths.OrderBy(path => path, System.StringComparer.Ordinal).ToList<object>();
        }
    }
}
